//! The files that the workers share, their names, their locks and their contents.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hasher},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::{
    board::SLOTS,
    judge::{Content, FileId},
};

/// The workers leave files no larger than about this.
pub(crate) const LARGEST: u64 = 96 << 10;
/// How many names a slot's file can have, in two directories.
pub(crate) const NAMES: u64 = 4;

/// The directory of the files that mark how far the stream of events has been read.
pub(crate) const SENTINELS: &str = "sentinels";

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The mounted filesystems below /mnt, by type and mount point.
pub(crate) fn mounts() -> Vec<(String, PathBuf)> {
    let table = fs::read_to_string("/proc/self/mounts").expect("the mount table");
    let mut mounts: Vec<(String, PathBuf)> = Vec::new();
    for line in table.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(point), Some(kind)) = (words.next(), words.next()) else {
            continue;
        };
        // The first filesystem has a second mount, at /mnt/test.
        let known = mounts.iter().any(|(other, _)| other == kind);
        if point.starts_with("/mnt/") && !known {
            mounts.push((kind.to_owned(), PathBuf::from(point)));
        }
    }
    assert!(!mounts.is_empty(), "nothing is mounted below /mnt");
    mounts
}

/// The directory on a filesystem in which everything happens, and which premod traces.
pub(crate) fn traced(mount: &Path) -> PathBuf {
    mount.join("soak")
}

/// Makes the directories.
pub(crate) fn lay_out(traced: &Path) {
    for directory in ["d0", "d1", "moving", SENTINELS] {
        fs::create_dir_all(traced.join(directory)).expect("a directory");
    }
}

/// How all names of a slot's file begin.
pub(crate) fn prefix(slot: usize) -> String {
    format!("s{slot}-")
}

/// One of the names of a slot's file.
pub(crate) fn path(traced: &Path, slot: usize, name: u64) -> PathBuf {
    let directory = format!("d{}", name & 1);
    traced
        .join(directory)
        .join(format!("{}{}", prefix(slot), name >> 1))
}

/// The identity that premod reports for the same file.
pub(crate) fn identify(filesystem: usize, file: &File) -> io::Result<FileId> {
    let mut generation: libc::c_int = 0;
    // SAFETY: a valid descriptor, and room for the int that this ioctl writes.
    let result = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            libc::FS_IOC_GETVERSION,
            &raw mut generation,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(FileId {
        filesystem,
        inode: file.metadata()?.ino(),
        generation: generation.cast_unsigned(),
    })
}

/// Reads all of a file.
pub(crate) fn content(file: &File) -> io::Result<Content> {
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        let read = file.read_at(&mut buffer, size)?;
        if read == 0 {
            break;
        }
        hasher.write(&buffer[..read]);
        size += read as u64;
    }
    Ok(Content {
        size,
        hash: hasher.finish(),
    })
}

/// The locks of all slots: locks on files that nobody traces, each opened once by whoever locks.
pub(crate) struct Locks(Vec<Vec<File>>);

/// A lock that is held.
pub(crate) struct Held<'a>(&'a File);

impl Locks {
    pub(crate) fn open(directory: &Path, filesystems: usize) -> Self {
        let open = |filesystem: usize, slot: usize| {
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(directory.join(format!("lock-{filesystem}-{slot}")))
                .expect("a lock")
        };
        Self(
            (0..filesystems)
                .map(|filesystem| (0..SLOTS).map(|slot| open(filesystem, slot)).collect())
                .collect(),
        )
    }

    pub(crate) fn shared(&self, filesystem: usize, slot: usize) -> Held<'_> {
        self.lock(filesystem, slot, FlockOperation::LockShared)
    }

    pub(crate) fn exclusive(&self, filesystem: usize, slot: usize) -> Held<'_> {
        self.lock(filesystem, slot, FlockOperation::LockExclusive)
    }

    fn lock(&self, filesystem: usize, slot: usize, operation: FlockOperation) -> Held<'_> {
        let file = &self.0[filesystem][slot];
        rustix::io::retry_on_intr(|| flock(file, operation)).expect("the lock");
        Held(file)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}
