//! What is mounted below the PATHs: it belongs to them, as far as its changes can be seen.

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use premod_common::inode::{Enrolled, InodeAddress, ScopeRoot};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, statx},
    io::Errno,
};

use super::{OVERLAY_MAGIC, watched::kind_of};
use crate::{
    error::Error,
    kernel::enrol::{Enroller, Learnt},
    mounts::{self, Mounted},
};

/// How many mounts are open at a time.
const OPEN_AT_A_TIME: usize = 64;

/// Filesystems of regular files whose changes are not seen, by their `s_magic` (linux/magic.h).
const UNSEEN: [(u64, &str); 4] = [
    (0x0102_1994, "tmpfs"),
    (0x9584_58f6, "hugetlbfs"),
    (0x8584_58f6, "ramfs"),
    (OVERLAY_MAGIC, "overlayfs"),
];

/// A place below a PATH where changes are not seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The type of its filesystem.
    pub filesystem: &'static str,
}

/// The mounts.
#[derive(Default)]
pub(super) struct Below {
    /// What the kernel side has to know.
    pub(super) entries: Vec<(InodeAddress, ScopeRoot)>,
    /// Mount points of which was said that nothing is seen there.
    told: HashSet<PathBuf>,
}

impl Below {
    /// Looks at what is mounted below these directories now. Returns the places where changes are not seen, each once.
    ///
    /// # Errors
    /// If there are no descriptors to look with, or the kernel does not answer.
    pub(super) fn look(
        &mut self,
        directories: &[&Path],
        enroller: &mut Enroller,
        learnt: &Learnt,
    ) -> Result<Vec<Unseen>, Error> {
        self.entries.clear();
        let mounts = mounts::below(directories);
        let points: HashSet<_> = mounts.iter().map(|mount| &mount.point).collect();
        self.told.retain(|point| points.contains(point));
        let mut unseen = Vec::new();
        // One after the other they need few descriptors, however many there are.
        for some in mounts.chunks(OPEN_AT_A_TIME) {
            let mut opened = Vec::new();
            for mount in some {
                opened.extend(open(mount)?.map(|(file, kind)| (mount, file, kind)));
            }
            if opened.is_empty() {
                continue;
            }
            let files: Vec<_> = opened.iter().map(|(_, file, _)| file.as_fd()).collect();
            let answers = enroller.ask(&files)?;
            for ((mount, _, kind), answer) in opened.iter().zip(&answers) {
                self.entries.push((answer.inode, *kind));
                if let Some(filesystem) = unseen_on(mount, answer, learnt, directories)
                    && self.told.insert(mount.point.clone())
                {
                    unseen.push(Unseen {
                        point: mount.point.clone(),
                        filesystem,
                    });
                }
            }
        }
        Ok(unseen)
    }
}

/// Opens what is mounted there, if it is a directory or a regular file. A mount that is gone again, or hidden by another,
/// needs no entry.
fn open(mount: &Mounted) -> Result<Option<(OwnedFd, ScopeRoot)>, Error> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&mount.point, flags, Mode::empty()) {
        Ok(file) => file,
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => {
            return Err(Error::kernel(
                "cannot look at what is mounted below a PATH",
                &errno,
            ));
        }
        Err(_) => return Ok(None),
    };
    // Whatever it is that is mounted there, and whoever serves it: nobody is asked, and so nobody waited for.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let kind = statx(&file, "", flags, StatxFlags::TYPE)
        .ok()
        .and_then(|status| kind_of(FileType::from_raw_mode(status.stx_mode.into())));
    Ok(kind.map(|kind| (file, kind)))
}

/// The type of a filesystem that keeps no dirty marks, for a sentence.
pub(super) fn named(magic: u64) -> String {
    match UNSEEN.iter().find(|(known, _)| *known == magic) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("a filesystem (magic {magic:#x})"),
    }
}

/// The type of the filesystem, if it is one whose changes are not seen. What is changed on overlayfs is seen in its upper
/// directory, if that lies below a PATH too.
fn unseen_on(
    mount: &Mounted,
    answer: &Enrolled,
    learnt: &Learnt,
    directories: &[&Path],
) -> Option<&'static str> {
    let &(magic, filesystem) = UNSEEN.iter().find(|(magic, _)| *magic == answer.magic)?;
    let unseen = if magic == OVERLAY_MAGIC {
        let upper = mount.upper.as_ref()?;
        !directories.iter().any(|path| upper.starts_with(path))
    } else {
        answer.bdi == learnt.untracked_bdi
    };
    unseen.then_some(filesystem)
}
