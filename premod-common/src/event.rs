//! The records in the ring buffer.
//!
//! A record is a [`FirstDirtyRecord`] followed by `names_length` bytes: the path's components, leaf
//! first, each ended by a NUL byte. User space turns them round.

/// The kind of touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Op {
    /// Not known: only the net under the other hooks saw it.
    Unknown = 0,
    /// The write family.
    Write = 1,
    /// A store through a shared mapping.
    Mmap = 2,
    /// truncate, ftruncate, open with `O_TRUNC`.
    Truncate = 3,
    /// Every mode of fallocate.
    Fallocate = 4,
    /// The target of a reflink or of a deduplication.
    Clone = 5,
    /// splice into the file.
    Splice = 6,
    /// The target of `copy_file_range`.
    Copy = 7,
    /// An ioctl that changes data.
    Ioctl = 8,
}

impl Op {
    /// Every operation, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Write,
        Self::Mmap,
        Self::Truncate,
        Self::Fallocate,
        Self::Clone,
        Self::Splice,
        Self::Copy,
        Self::Ioctl,
    ];

    /// The operation with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The word used on the command line and in the JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Write => "write",
            Self::Mmap => "mmap",
            Self::Truncate => "truncate",
            Self::Fallocate => "fallocate",
            Self::Clone => "clone",
            Self::Splice => "splice",
            Self::Copy => "copy",
            Self::Ioctl => "ioctl",
        }
    }
}

/// The event came before the modification.
pub const FLAG_PRE: u8 = 1 << 0;
/// Another CPU is announcing the same generation ([`crate::generation::Announcement::Echo`]).
pub const FLAG_ECHO: u8 = 1 << 1;
/// An announcement of this generation was lost before.
pub const FLAG_RETRY: u8 = 1 << 2;
/// The inode has no name any more.
pub const FLAG_DELETED: u8 = 1 << 3;
/// The path has more components or bytes than the walk takes: its beginning is missing.
pub const FLAG_PATH_CUT: u8 = 1 << 4;
/// The path ends at the root of its filesystem: the hook did not know through which mount.
pub const FLAG_PATH_IN_FS: u8 = 1 << 5;
/// The range is known.
pub const FLAG_RANGE: u8 = 1 << 6;
/// There was no room to track the inode: this generation may be announced again.
pub const FLAG_UNTRACKED: u8 = 1 << 7;

/// `length` of a range that reaches to the end of the file, wherever that is.
pub const TO_THE_END: u64 = u64::MAX;

/// Most bytes of path components in a record.
pub const NAMES_MAX: usize = 4096;
/// Longest component with its NUL byte (`NAME_MAX` + 1).
pub const NAME_SPACE: usize = 256;
/// Most steps of the walk from the file to the root: components and mount points.
pub const WALK_MAX: u32 = 512;

/// An inode's data is about to become dirty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FirstDirtyRecord {
    /// `CLOCK_MONOTONIC` when the hook ran, in nanoseconds.
    pub mono_ns: u64,
    /// The generation that begins.
    pub generation: u64,
    /// Address of the inode, for telling announcements of one generation from each other.
    pub inode_address: u64,
    /// When tracking of the inode began, in nanoseconds of `CLOCK_MONOTONIC`.
    pub born: u64,
    /// Inode number.
    pub inode: u64,
    /// Where the change begins, in bytes; valid with [`FLAG_RANGE`].
    pub offset: u64,
    /// How many bytes change; [`TO_THE_END`] for all after `offset`.
    pub length: u64,
    /// The process's cgroup v2 id.
    pub cgroup: u64,
    /// Inode generation (`i_generation`).
    pub inode_generation: u32,
    /// The superblock's `s_dev`: major << 20 | minor.
    pub device: u32,
    /// Process (thread group) id in the initial pid namespace.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Bytes of path components that follow the record.
    pub names_length: u16,
    /// [`Op`] as a number.
    pub op: u8,
    /// The `FLAG_…` bits.
    pub flags: u8,
    /// CPU the hook ran on.
    pub cpu: u32,
    /// Name of the task, ended by a NUL byte if shorter.
    pub comm: [u8; 16],
    /// Name of the filesystem type, ended by a NUL byte if shorter.
    pub filesystem: [u8; 16],
}

const _: () = assert!(size_of::<FirstDirtyRecord>() == 128 && align_of::<FirstDirtyRecord>() == 8);

impl FirstDirtyRecord {
    /// Size of the fixed part, in bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// Splits a ring buffer item into the fixed part and the path's components.
    ///
    /// `None` if the item is shorter than it says: it was not written by these programs.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, names) = bytes.split_at_checked(Self::SIZE)?;
        // SAFETY: `fixed` has the size of the record, every bit pattern is a valid record (integers and
        // byte arrays), and read_unaligned asks nothing of the address.
        let record = unsafe { fixed.as_ptr().cast::<Self>().read_unaligned() };
        let names = names.get(..usize::from(record.names_length))?;
        Some((record, names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn op_numbers_and_names_round_trip() {
        for (number, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, number);
            assert_eq!(Op::from_number(number as u8), Some(op));
        }
        assert_eq!(Op::from_number(9), None);
    }

    #[test]
    fn decode_refuses_short_items() {
        let mut item = [0u8; FirstDirtyRecord::SIZE + 4];
        assert!(FirstDirtyRecord::decode(&item[..FirstDirtyRecord::SIZE - 1]).is_none());
        let names_length = core::mem::offset_of!(FirstDirtyRecord, names_length);
        item[names_length] = 4;
        assert_eq!(
            FirstDirtyRecord::decode(&item).map(|(_, names)| names.len()),
            Some(4)
        );
        item[names_length] = 5;
        assert!(FirstDirtyRecord::decode(&item).is_none());
    }
}
