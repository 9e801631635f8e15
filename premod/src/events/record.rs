//! The types of the event stream.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use premod_common::event::Op;
use serde::{Deserialize, Serialize};

/// A process (thread group) id, in the initial pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pid(pub u32);

/// A thread id, in the initial pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tid(pub u32);

/// A time on `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MonotonicNs(pub u64);

/// A filesystem's device number as the kernel keeps it (`s_dev`); on btrfs not what `stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Device {
    /// From the kernel's `dev_t`: 12 bits major, 20 bits minor.
    #[must_use]
    pub const fn from_kernel(device: u32) -> Self {
        Self {
            major: device >> 20,
            minor: device & 0xf_ffff,
        }
    }
}

/// What names an inode across its lives in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeKey {
    /// Its filesystem.
    pub device: Device,
    /// Its number.
    pub inode: u64,
    /// Its generation (`i_generation`), which tells it from an earlier file with the same number.
    pub generation: u32,
}

/// Bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The first byte.
    pub offset: u64,
    /// How many; `None` means all that follow.
    pub length: Option<u64>,
}

/// A path as the kernel saw it when the event was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The bytes of the path, from the root of the mount namespace of the process.
    pub bytes: Bytes,
    /// The file had no name left (or never had one).
    pub deleted: bool,
    /// The path was too long, or its directory is not known: its beginning is missing.
    pub cut: bool,
    /// The path begins at the root of its filesystem, because the hook did not know the mount.
    pub in_filesystem: bool,
    /// Whether the file is below a PATH could not be decided, so that it counts as below.
    pub undecided: bool,
    /// The path is what another mount namespace than premod's own calls it, where others choose what is mounted where.
    pub foreign: bool,
    /// The file is mounted on its own name: the name is the mount point's.
    pub mount_point: bool,
    /// The file has several names, of which this is one.
    pub several_names: bool,
}

impl Path {
    /// As a path of the standard library.
    #[must_use]
    pub fn to_path_buf(&self) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        PathBuf::from(std::ffi::OsStr::from_bytes(&self.bytes))
    }
}

/// An inode's data is about to be dirtied, for the first time since it was clean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstDirty {
    /// Number of this record in the stream, from 1.
    pub seq: u64,
    /// When the hook ran.
    pub timestamp: Timestamp,
    /// The same on the monotonic clock.
    pub mono: MonotonicNs,
    /// How the data is about to be changed.
    pub op: Op,
    /// The event came before the modification. If not, the modification was seen only while or after it
    /// happened.
    pub pre: bool,
    /// An announcement of this generation was lost before (it stands in a [`Lost`] record).
    pub retried: bool,
    /// There was no room to track the inode, so that the event may come again.
    pub untracked: bool,
    /// Number of the inode's dirty period since it is tracked, from 1; 0 if it is not tracked.
    pub generation: u64,
    /// Where the file is.
    pub path: Path,
    /// Which inode it is.
    pub key: InodeKey,
    /// Type of the filesystem; empty if the directory is not known.
    pub filesystem: Arc<str>,
    /// Which bytes, where the hook knows.
    pub range: Option<Range>,
    /// Name of the task.
    pub comm: Bytes,
    /// The process.
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
    /// Its user id, in the initial user namespace.
    pub uid: u32,
    /// Its group id, in the initial user namespace.
    pub gid: u32,
    /// Its cgroup v2 id: the inode number of its directory in cgroupfs.
    pub cgroup: u64,
    /// Whether that is one of the cgroups that [`TracerBuilder::cgroup`](crate::TracerBuilder::cgroup) asks for, or
    /// below one.
    pub in_cgroup: bool,
}

/// Why events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// The ring buffer was full.
    BufferFull,
    /// The kernel skipped a program because another task was preempted inside of it on the same CPU
    /// (`recursion_misses`).
    Recursion {
        /// Where the program was attached.
        hook: &'static str,
    },
    /// Somebody has switched kprobes off, on which programs hang that decide.
    KprobesOff,
    /// It stood in the ring buffer, but premod does not understand it: a defect of premod.
    Malformed,
}

impl LostReason {
    /// In words, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::BufferFull => "the ring buffer was full; try a larger --buffer-size".to_owned(),
            Self::Recursion { hook } => {
                format!("the kernel skipped the program on {hook} (recursion_misses)")
            }
            Self::KprobesOff => {
                "somebody has switched kprobes off; until they are on again premod sees little"
                    .to_owned()
            }
            Self::Malformed => {
                "premod does not understand what its kernel side wrote; this is a defect".to_owned()
            }
        }
    }
}

/// Events that could not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Number of this record in the stream.
    pub seq: u64,
    /// When the loss was noticed.
    pub timestamp: Timestamp,
    /// The same on the monotonic clock.
    pub mono: MonotonicNs,
    /// How many since the last record of this kind.
    pub count: u64,
    /// On which CPU; `None` if the kernel does not say.
    pub cpu: Option<u32>,
    /// Why.
    pub reason: LostReason,
}

/// What has become of a PATH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathChanged {
    /// Nothing has its name any more: premod waits for it.
    Gone,
    /// Another file or directory has its name now.
    Replaced,
    /// Something has its name again, or at last.
    Back,
}

impl PathChanged {
    /// The word in the JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Replaced => "replaced",
            Self::Back => "back",
        }
    }
}

/// A PATH leads to something else than before. What it leads to has been traced from the moment on in which it got the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathChange {
    /// Number of this record in the stream.
    pub seq: u64,
    /// When the change was noticed.
    pub timestamp: Timestamp,
    /// The same on the monotonic clock.
    pub mono: MonotonicNs,
    /// The PATH, as it was given.
    pub path: PathBuf,
    /// What has become of it.
    pub change: PathChanged,
}

/// One record of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A file is about to change.
    FirstDirty(FirstDirty),
    /// Events are missing at about this place of the stream.
    Lost(Lost),
    /// A PATH leads to something else than before.
    Path(PathChange),
}
