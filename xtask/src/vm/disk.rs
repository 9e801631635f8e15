//! The test disks: a fresh file system for every run, from a template that is made once.

use std::{
    fmt,
    fs::{self, File},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{exec, paths, setup::guest};

/// A file system that a test disk can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Filesystem {
    Ext4,
    Xfs,
    Btrfs,
}

/// What premod's promises are tested on, in the order in which tables show them.
pub(crate) const TESTED: [Filesystem; 3] = [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs];

/// How large a disk is. The files are sparse.
const SIZE: u64 = 1 << 30;

/// Counted up when the disks are made in another way.
const REVISION: u32 = 1;

impl fmt::Display for Filesystem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Filesystem {
    /// Its name, which is also the name of its module and the serial of its disk.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// An image with a fresh file system. Nobody writes to it: QEMU puts what a run writes
    /// elsewhere.
    pub(crate) fn template(self) -> Result<PathBuf> {
        let directory = paths::vm().join("disks");
        let path = directory.join(format!("{self}-{REVISION}.img"));
        if path.is_file() {
            return Ok(path);
        }
        fs::create_dir_all(&directory).with_context(|| format!("mkdir {}", directory.display()))?;
        let partial = directory.join(format!("{self}.partial"));
        File::create(&partial)
            .and_then(|file| file.set_len(SIZE))
            .with_context(|| format!("cannot create {}", partial.display()))?;
        let mut mkfs = match self {
            Self::Ext4 => {
                let mut mkfs = guest::host_command("sbin/mke2fs");
                // Without lazy initialisation: the kernel would do it while tests measure.
                let eager = "lazy_itable_init=0,lazy_journal_init=0";
                mkfs.args(["-q", "-F", "-t", "ext4", "-E", eager]);
                mkfs.env("MKE2FS_CONFIG", guest::root().join("etc/mke2fs.conf"));
                mkfs
            }
            Self::Xfs => {
                let mut mkfs = guest::host_command("sbin/mkfs.xfs");
                mkfs.args(["-q", "-f"]);
                mkfs
            }
            Self::Btrfs => {
                let mut mkfs = guest::host_command("sbin/mkfs.btrfs");
                mkfs.args(["-q", "-f"]);
                mkfs
            }
        };
        exec::output(mkfs.arg(&partial))?;
        fs::rename(&partial, &path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}
