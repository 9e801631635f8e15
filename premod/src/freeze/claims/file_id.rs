//! Which file is which, among premod processes.

use std::{
    fmt, io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{major, minor};

use crate::{Error, events::Device};

/// What names a file among premod processes: its device and inode as `stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The device; on btrfs the subvolume's own.
    pub device: Device,
    /// The inode number.
    pub inode: u64,
}

impl FileId {
    /// Of an open file.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn of(file: BorrowedFd<'_>) -> Result<Self, Error> {
        let stat = rustix::fs::fstat(file);
        let stat = stat.map_err(|error| Error::kernel("cannot look at a file", &error))?;
        Ok(Self::new(stat.st_dev, stat.st_ino))
    }

    /// Of the file with this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn at(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self::new(metadata.dev(), metadata.ino()))
    }

    fn new(device: u64, inode: u64) -> Self {
        let device = Device {
            major: major(device),
            minor: minor(device),
        };
        Self { device, inode }
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Device { major, minor } = self.device;
        write!(formatter, "{major}:{minor}-{}", self.inode)
    }
}

/// The name by which this process opened a file, as far as the kernel knows it.
pub(super) fn name_of(file: BorrowedFd<'_>, id: FileId) -> PathBuf {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(link).unwrap_or_else(|_| format!("inode {id}").into())
}
