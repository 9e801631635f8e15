//! The PATHs that are traced, as the kernel side knows them.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, MapData};
use premod_common::inode::{Enrolled, InodeAddress, ScopeRoot};
use rustix::fs::{FileType, Mode, OFlags};

use crate::{
    error::Error,
    excluded::Excluded,
    kernel::enrol::{Enroller, Learnt},
    mounts,
};

/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h, which is part of the kernel's stable interface.
pub(crate) const OVERLAY_MAGIC: u64 = 0x794c_7630;

/// An opened PATH. It stays open, so that its inode stays in memory and keeps its address.
pub(crate) struct Root {
    path: PathBuf,
    file: OwnedFd,
    kind: ScopeRoot,
}

impl Root {
    /// Opens a PATH and checks what it is.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let refused = |source: std::io::Error| Error::Path {
            path: path.to_owned(),
            source,
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| refused(e.into()))?;
        let status = rustix::fs::fstat(&file).map_err(|e| refused(e.into()))?;
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => ScopeRoot::File,
            FileType::Directory => ScopeRoot::Directory,
            other => {
                let kind = describe(other);
                return Err(Error::NotTraceable {
                    path: path.to_owned(),
                    kind,
                });
            }
        };
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, file, kind })
    }

    /// Refuses places where premod could not keep its word.
    fn check(&self, answer: &Enrolled, learnt: &Learnt) -> Result<(), Error> {
        if answer.magic == OVERLAY_MAGIC {
            return Err(Error::Stacked {
                path: self.path.clone(),
            });
        }
        if answer.bdi == learnt.untracked_bdi {
            let filesystem = filesystem_of(&self.file);
            return Err(Error::Unseen {
                path: self.path.clone(),
                filesystem,
            });
        }
        Ok(())
    }
}

/// The scope map and what keeps it true.
pub(crate) struct Scope {
    roots: Vec<Root>,
    excluded: Excluded,
    map: HashMap<MapData, InodeAddress, u32>,
    epoch: Array<MapData, u64>,
}

impl Scope {
    /// Puts the PATHs, whatever is mounted below them, and what is left out, into the kernel's map.
    pub(crate) fn enrol(
        roots: Vec<Root>,
        excluded: Excluded,
        map: HashMap<MapData, InodeAddress, u32>,
        epoch: Array<MapData, u64>,
        enroller: &mut Enroller,
        learnt: &Learnt,
    ) -> Result<Self, Error> {
        let mut scope = Self {
            roots,
            excluded,
            map,
            epoch,
        };
        scope.excluded.check(enroller)?;
        let files: Vec<_> = scope.roots.iter().map(|root| root.file.as_fd()).collect();
        let answers = enroller.ask(&files)?;
        for (root, answer) in scope.roots.iter().zip(&answers) {
            root.check(answer, learnt)?;
            insert(&mut scope.map, answer.inode, root.kind)?;
        }
        scope.enrol_mounts(enroller)?;
        scope.excluded.enrol(&mut scope.map, enroller)?;
        Ok(scope)
    }

    /// The mount table has changed: what is mounted below a PATH belongs to it, and what was decided
    /// about files has to be decided again.
    pub(crate) fn mounts_changed(&mut self, enroller: &mut Enroller) -> Result<(), Error> {
        self.excluded.retract(&mut self.map);
        self.enrol_mounts(enroller)?;
        self.excluded.enrol(&mut self.map, enroller)?;
        let failed = |error| Error::kernel("cannot update the scope", &error);
        let epoch = self.epoch.get(&0, 0).map_err(failed)?;
        self.epoch.set(0, epoch + 1, 0).map_err(failed)
    }

    /// Whether something else has the name of a place that is left out: then it is as if the mounts had changed.
    pub(crate) fn excluded_have_moved(&mut self) -> bool {
        self.excluded.have_moved()
    }

    fn enrol_mounts(&mut self, enroller: &mut Enroller) -> Result<(), Error> {
        let directories = self
            .roots
            .iter()
            .filter(|root| root.kind == ScopeRoot::Directory)
            .map(|root| &root.path);
        let opened: Vec<OwnedFd> = directories
            .flat_map(|directory| mounts::below(directory))
            // A mount that is gone again, or hidden by another, needs no entry.
            .filter_map(|mount| {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open(mount, flags, Mode::empty()).ok()
            })
            .collect();
        if opened.is_empty() {
            return Ok(());
        }
        let files: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
        for answer in enroller.ask(&files)? {
            insert(&mut self.map, answer.inode, ScopeRoot::Directory)?;
        }
        Ok(())
    }
}

fn insert(
    map: &mut HashMap<MapData, InodeAddress, u32>,
    inode: InodeAddress,
    kind: ScopeRoot,
) -> Result<(), Error> {
    map.insert(inode, kind as u32, 0)
        .map_err(|error| Error::kernel("cannot put a PATH into the scope map", &error))
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "special file",
    }
}

/// Name of the filesystem type, for a sentence.
fn filesystem_of(file: &OwnedFd) -> String {
    const TMPFS: u64 = 0x0102_1994;
    const HUGETLBFS: u64 = 0x9584_58f6;
    const RAMFS: u64 = 0x8584_58f6;
    match rustix::fs::fstatfs(file).map(|status| status.f_type as u64) {
        Ok(TMPFS) => "tmpfs".to_owned(),
        Ok(HUGETLBFS) => "hugetlbfs".to_owned(),
        Ok(RAMFS) => "ramfs".to_owned(),
        Ok(magic) => format!("a filesystem (magic {magic:#x})"),
        Err(_) => "a filesystem".to_owned(),
    }
}
