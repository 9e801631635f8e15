//! The files to be frozen, and which of them premod refuses.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use premod_common::guard::Look;
use rustix::fs::{AtFlags, StatxFlags};

use super::kernel_use::UsedByKernel;
use crate::{error::Error, exit_code::ExitCode};

/// A file to be frozen. It stays open, so that its inode stays in memory.
#[derive(Debug)]
pub struct Target {
    /// Its path, absolute and without links.
    pub path: PathBuf,
    /// Its paths as they were given, absolute.
    given: Vec<PathBuf>,
    /// Its device and inode number, as `stat` says them.
    pub id: (u64, u64),
    file: Arc<File>,
}

/// The filesystems on which freezing has been proved, by the magic numbers of linux/magic.h.
const PROVED: [(u64, &str); 3] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
];

/// Others that can be told in a word, with what keeps premod from promising anything there.
const REFUSED: [(u64, &str, &str); 12] = [
    (0x0102_1994, "tmpfs", UNSEEN),
    (0x8584_58f6, "ramfs", UNSEEN),
    (0x9584_58f6, "hugetlbfs", UNSEEN),
    (
        0x794c_7630,
        "overlayfs",
        "whose files live on the upper filesystem; freeze the file there",
    ),
    (0x6573_5546, "FUSE", ELSEWHERE),
    (0x6969, "NFS", ELSEWHERE),
    (0xff53_4d42, "CIFS", ELSEWHERE),
    (0xfe53_4d42, "SMB", ELSEWHERE),
    (0x0102_1997, "9p", ELSEWHERE),
    (0x00c3_6400, "Ceph", ELSEWHERE),
    (0x0bad_1dea, "Lustre", ELSEWHERE),
    (0x0116_1970, "GFS2", ELSEWHERE),
];

/// `STATX_ATTR_DAX` of linux/stat.h: the kernel's stable interface.
const STATX_ATTR_DAX: u64 = 0x0020_0000;

const UNSEEN: &str =
    "where a store through a mapping makes no call into the kernel that could be stopped";
const ELSEWHERE: &str = "whose files can be changed without this kernel";

impl Target {
    /// Opens FILE, if it is a regular file on a filesystem that freezing has been proved on.
    ///
    /// # Errors
    /// If it cannot be opened, or nothing could be promised about it.
    pub fn open(path: &Path, used: &UsedByKernel) -> Result<Self, Error> {
        let failed = |source: io::Error| refuse(path, ExitCode::BadPath, format!("{source}"));
        // Opening a FIFO would wait, and opening a device may do anything.
        let kind = fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() {
            let kind = if kind.is_dir() {
                "a directory"
            } else if kind.is_fifo() {
                "a FIFO"
            } else if kind.is_socket() {
                "a socket"
            } else {
                "a device"
            };
            let sentence = format!("it is {kind}; give regular files");
            return Err(refuse(path, ExitCode::BadPath, sentence));
        }
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let id = (metadata.dev(), metadata.ino());
        let given = std::path::absolute(path).map_err(failed)?;
        // The links of /proc say something of where they lead to, which need not be a path here (/proc/PID/root).
        let leads_to_it = |path: &PathBuf| is_at(path, id).unwrap_or(false);
        let without_links = path.canonicalize().ok().filter(leads_to_it);
        let target = Self {
            path: without_links.unwrap_or_else(|| given.clone()),
            given: vec![given],
            id,
            file: Arc::new(file),
        };
        target.check_filesystem()?;
        target.check_use(used)?;
        Ok(target)
    }

    fn check_filesystem(&self) -> Result<(), Error> {
        let status = rustix::fs::fstatfs(&self.file).map_err(|error| {
            self.refused(format!("the kernel does not say where it is: {error}"))
        })?;
        let magic = status.f_type as u64 & 0xffff_ffff;
        if PROVED.iter().any(|&(proved, _)| proved == magic) {
            return Ok(());
        }
        Err(self.refused(
            match REFUSED.iter().find(|&&(refused, ..)| refused == magic) {
                Some((_, name, why)) => format!("it lies on {name}, {why}"),
                None => {
                    let proved: Vec<_> = PROVED.iter().map(|&(_, name)| name).collect();
                    format!(
                        "it lies on a filesystem (magic {magic:#x}) that freezing has not been proved on; it has been on {}",
                        proved.join(", ")
                    )
                }
            },
        ))
    }

    /// Refuses files that the kernel modifies behind everybody's back.
    pub(crate) fn check_use(&self, used: &UsedByKernel) -> Result<(), Error> {
        let status =
            rustix::fs::statx(&self.file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        if status.is_ok_and(|status| status.stx_attributes.bits() & STATX_ATTR_DAX != 0) {
            return Err(self.refused(
                "it is a DAX file, whose stores go to the memory itself; freezing has not been proved on it"
                    .to_owned(),
            ));
        }
        if used.swap.contains(&self.id) {
            return Err(self.refused(
                "it is an active swap file, which the kernel writes without asking; swapoff it first"
                    .to_owned(),
            ));
        }
        if let Some((device, _)) = used.loops.iter().find(|(_, id)| *id == self.id) {
            return Err(self.refused(format!(
                "it is the file behind /dev/{device}, which writes to it without asking; freeze the filesystem on the device instead (fsfreeze)"
            )));
        }
        if let Some((place, _)) = used.served.iter().find(|(_, id)| *id == self.id) {
            return Err(self.refused(format!(
                "the kernel serves it as a disk, and writes to it without asking (see {}); stop that first",
                place.display()
            )));
        }
        Ok(())
    }

    /// Refuses what only the kernel itself can tell.
    pub(crate) fn check_look(&self, look: &Look) -> Result<(), Error> {
        if look.frozen != 0 {
            return Err(self.refused(
                "its filesystem is frozen by fsfreeze, so that it cannot be flushed; unfreeze it first"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// All paths that have to lead to it: as they were given, and the one without links.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let canonical = (!self.given.contains(&self.path)).then_some(&self.path);
        self.given.iter().chain(canonical).map(PathBuf::as_path)
    }

    /// The same file was given once more, by this path of the other target.
    pub(crate) fn is_given_again(&mut self, other: Self) {
        for path in [other.given, vec![other.path]].concat() {
            if !self.paths().any(|known| known == path) {
                self.given.push(path);
            }
        }
    }

    /// Whether its paths still lead to it. If that cannot be told, the hooks know.
    pub(crate) fn is_in_its_place(&self) -> bool {
        self.paths().all(|path| {
            is_at(path, self.id).unwrap_or_else(|error| {
                !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                )
            })
        })
    }

    /// Refuses if a path has led to another file.
    pub(crate) fn must_be(&self, found: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
        let status = rustix::fs::fstat(found);
        if status.is_ok_and(|status| (status.st_dev, status.st_ino) == self.id) {
            return Ok(());
        }
        let sentence = "its path leads to another file than a moment ago".to_owned();
        Err(refuse(path, ExitCode::BadPath, sentence))
    }

    fn refused(&self, why: String) -> Error {
        refuse(&self.path, ExitCode::Unseen, why)
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The same, for whoever needs it for longer. It costs no other descriptor.
    pub(crate) fn shared_file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether a path leads to this file.
fn is_at(path: &Path, id: (u64, u64)) -> io::Result<bool> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()) == id)
}

fn refuse(path: &Path, code: ExitCode, why: String) -> Error {
    Error::NotFreezable {
        path: path.to_owned(),
        why,
        code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_frozen_is_refused_in_a_sentence() {
        let used = UsedByKernel::gather();
        let sentence = |path: &str| {
            let refusal = Target::open(Path::new(path), &used).unwrap_err();
            refusal.to_string()
        };
        assert!(sentence("/no/such/file").contains("/no/such/file"));
        assert!(sentence("/").contains("directory"));
        assert!(sentence("/dev/null").contains("device"));
        assert!(sentence("/proc/version").contains("not been proved"));
    }
}
