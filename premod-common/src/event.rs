//! The records in the ring buffer.
//!
//! Each begins with its [`RecordKind`], what filters ask for (the `MARK_…` bits), and the length of the names that follow
//! its fixed part: components of a path, leaf first, each ended by a NUL byte. User space turns them round.
//!
//! A path is told once for each directory: a [`DirectoryRecord`] gives the directory a token, and the
//! [`FirstDirtyRecord`]s of the files in it carry the token and their own name. A directory's record is reserved before
//! those that use its token, so that it is read before them; but a task can be preempted between taking a token
//! and using it, so that a token may come up again long after newer ones.

/// What a record is. Its first two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum RecordKind {
    /// A [`FirstDirtyRecord`].
    FirstDirty = 1,
    /// A [`DirectoryRecord`].
    Directory = 2,
}

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
/// Whether the inode is below a PATH could not be decided, so that it counts as below.
pub const FLAG_UNDECIDED: u8 = 1 << 1;
/// An announcement of this generation was lost before.
pub const FLAG_RETRY: u8 = 1 << 2;
/// The inode has no name left.
pub const FLAG_DELETED: u8 = 1 << 3;
/// The path has more components or bytes than the walk takes: its beginning is missing.
pub const FLAG_PATH_CUT: u8 = 1 << 4;
/// The path ends at the root of its filesystem: the hook did not know through which mount.
pub const FLAG_PATH_IN_FS: u8 = 1 << 5;
/// The range is known.
pub const FLAG_RANGE: u8 = 1 << 6;
/// There was no room to track the inode: this generation may be announced again.
pub const FLAG_UNTRACKED: u8 = 1 << 7;

/// Of a file: the change is caused in one of the cgroups that are asked for, or below one.
pub const MARK_IN_CGROUP: u16 = 1 << 0;
/// Of a file: it has several names, of which the path is one.
pub const MARK_SEVERAL_NAMES: u16 = 1 << 1;
/// Of a directory: the path is what another mount namespace than premod's own calls it.
pub const MARK_FOREIGN: u16 = 1 << 2;
/// Of a directory that is told for one event: the file's own name is a mount point's, on which the file is mounted.
pub const MARK_MOUNT_POINT: u16 = 1 << 3;

/// `length` of a range that reaches to the end of the file, wherever that is.
pub const TO_THE_END: u64 = u64::MAX;

/// Most bytes of path components in a record.
pub const NAMES_MAX: usize = 4096;
/// Longest component with its NUL byte (`NAME_MAX` + 1).
pub const NAME_SPACE: usize = 256;
/// Most steps of the walk from the file to the root: components and mount points.
pub const WALK_MAX: u32 = 512;
/// Most steps from one file up, by all of its names that are in memory, when it is decided whether it lies below a PATH.
pub const SEARCH_MAX: u32 = 16_384;

/// How many directories user space remembers: those it was told last. The kernel side tells a directory anew, with a new
/// token, when half as many others have been told since: the other half is for events that are late.
pub const DIRECTORIES_REMEMBERED: usize = 8192;

/// An inode's data is about to become dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FirstDirtyRecord {
    /// [`RecordKind::FirstDirty`] as a number.
    pub kind: u16,
    /// The `MARK_…` bits.
    pub marks: u16,
    /// Bytes of path components that follow the record.
    pub names_length: u16,
    /// [`Op`] as a number.
    pub op: u8,
    /// The `FLAG_…` bits.
    pub flags: u8,
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
    /// Token of the directory's [`DirectoryRecord`]: the file's own name follows, and what is true of the directory's
    /// path is true of the file's. 0 if the whole path follows.
    pub directory: u64,
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
    /// Name of the task, ended by a NUL byte if shorter.
    pub comm: [u8; 16],
    /// Name of the filesystem type, ended by a NUL byte if shorter; valid if `directory` is 0.
    pub filesystem: [u8; 16],
}

const _: () = assert!(size_of::<FirstDirtyRecord>() == 136 && align_of::<FirstDirtyRecord>() == 8);

impl FirstDirtyRecord {
    /// Size of the fixed part, in bytes.
    pub const SIZE: usize = size_of::<Self>();
}

impl Default for FirstDirtyRecord {
    fn default() -> Self {
        Self {
            kind: RecordKind::FirstDirty as u16,
            marks: 0,
            names_length: 0,
            op: Op::Unknown as u8,
            flags: 0,
            mono_ns: 0,
            generation: 0,
            inode_address: 0,
            born: 0,
            inode: 0,
            offset: 0,
            length: 0,
            cgroup: 0,
            directory: 0,
            inode_generation: 0,
            device: 0,
            pid: 0,
            tid: 0,
            uid: 0,
            gid: 0,
            comm: [0; 16],
            filesystem: [0; 16],
        }
    }
}

/// Where a directory is: told once, for all files in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DirectoryRecord {
    /// [`RecordKind::Directory`] as a number.
    pub kind: u16,
    /// [`MARK_FOREIGN`] and [`MARK_MOUNT_POINT`].
    pub marks: u16,
    /// Bytes of path components that follow the record; none for the root.
    pub names_length: u16,
    /// [`FLAG_PATH_CUT`] and [`FLAG_PATH_IN_FS`].
    pub flags: u8,
    /// Zero.
    pub padding: u8,
    /// What the files in it call it by: never 0, and never used twice.
    pub token: u64,
    /// Name of the filesystem type, ended by a NUL byte if shorter.
    pub filesystem: [u8; 16],
}

const _: () = assert!(size_of::<DirectoryRecord>() == 32 && align_of::<DirectoryRecord>() == 8);

impl DirectoryRecord {
    /// Size of the fixed part, in bytes.
    pub const SIZE: usize = size_of::<Self>();
}

impl Default for DirectoryRecord {
    fn default() -> Self {
        Self {
            kind: RecordKind::Directory as u16,
            marks: 0,
            names_length: 0,
            flags: 0,
            padding: 0,
            token: 0,
            filesystem: [0; 16],
        }
    }
}

/// An item of the ring buffer: the record's fixed part, and the path components that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A file is about to change.
    FirstDirty(FirstDirtyRecord, &'a [u8]),
    /// Where a directory is.
    Directory(DirectoryRecord, &'a [u8]),
}

impl<'a> Item<'a> {
    /// Reads an item.
    ///
    /// `None` if these programs did not write it: it is of no [`RecordKind`], shorter than it says, a directory
    /// without a token, or a file in a directory without a name.
    #[must_use]
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        const FIRST_DIRTY: u16 = RecordKind::FirstDirty as u16;
        const DIRECTORY: u16 = RecordKind::Directory as u16;
        match u16::from_ne_bytes(*bytes.first_chunk()?) {
            FIRST_DIRTY => {
                // SAFETY: every bit pattern is a valid record: integers and arrays of bytes.
                let (record, rest) = unsafe { split::<FirstDirtyRecord>(bytes) }?;
                let names = rest.get(..usize::from(record.names_length))?;
                let named = record.directory == 0 || !names.is_empty();
                named.then_some(Self::FirstDirty(record, names))
            }
            DIRECTORY => {
                // SAFETY: as above.
                let (record, rest) = unsafe { split::<DirectoryRecord>(bytes) }?;
                let names = rest.get(..usize::from(record.names_length))?;
                (record.token != 0).then_some(Self::Directory(record, names))
            }
            _ => None,
        }
    }
}

/// The fixed part, and what follows it.
///
/// # Safety
/// Every bit pattern is a valid `T`.
#[inline]
unsafe fn split<T: Copy>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (fixed, rest) = bytes.split_at_checked(size_of::<T>())?;
    // SAFETY: `fixed` has the size of a `T`, and read_unaligned asks nothing of the address.
    let record = unsafe { fixed.as_ptr().cast::<T>().read_unaligned() };
    Some((record, rest))
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn op_numbers_and_names_round_trip() {
        for (number, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, number);
            assert_eq!(Op::from_number(number as u8), Some(op));
        }
        assert_eq!(Op::from_number(9), None);
    }

    /// A record as the kernel side writes it, with room for names.
    fn written<T: Copy, const SPACE: usize>(record: T) -> [u8; SPACE] {
        let mut item = [0x55; SPACE];
        assert!(size_of::<T>() <= SPACE);
        // SAFETY: `item` is that large, and neither record has padding that is not a field.
        unsafe { item.as_mut_ptr().cast::<T>().write_unaligned(record) };
        item
    }

    #[test]
    fn records_come_back_with_their_names() {
        let file = FirstDirtyRecord {
            names_length: 4,
            op: Op::Mmap as u8,
            flags: FLAG_PRE,
            mono_ns: u64::MAX,
            directory: 7,
            gid: 3,
            filesystem: [9; 16],
            ..FirstDirtyRecord::default()
        };
        let item = written::<_, 150>(file);
        assert_eq!(
            Item::decode(&item),
            Some(Item::FirstDirty(file, &[0x55; 4]))
        );
        let directory = DirectoryRecord {
            names_length: 5,
            flags: FLAG_PATH_CUT,
            token: 7,
            filesystem: [8; 16],
            ..DirectoryRecord::default()
        };
        let item = written::<_, 40>(directory);
        assert_eq!(
            Item::decode(&item),
            Some(Item::Directory(directory, &[0x55; 5]))
        );
    }

    #[test]
    fn decode_refuses_short_items() {
        let mut item = written::<_, { FirstDirtyRecord::SIZE + 4 }>(FirstDirtyRecord::default());
        assert!(Item::decode(&[]).is_none() && Item::decode(&item[..3]).is_none());
        assert!(Item::decode(&item[..FirstDirtyRecord::SIZE - 1]).is_none());
        let names_length = offset_of!(FirstDirtyRecord, names_length);
        item[names_length] = 4;
        assert!(Item::decode(&item).is_some());
        item[names_length] = 5;
        assert!(Item::decode(&item).is_none());

        let root = DirectoryRecord {
            token: 1,
            ..DirectoryRecord::default()
        };
        let mut item = written::<_, { DirectoryRecord::SIZE }>(root);
        assert_eq!(Item::decode(&item), Some(Item::Directory(root, &[])));
        assert!(Item::decode(&item[..DirectoryRecord::SIZE - 1]).is_none());
        item[offset_of!(DirectoryRecord, names_length)] = 1;
        assert!(Item::decode(&item).is_none());
    }

    #[test]
    fn decode_refuses_what_nobody_writes() {
        for kind in [0, 3, 1 << 8, u16::MAX] {
            let record = FirstDirtyRecord {
                kind,
                ..FirstDirtyRecord::default()
            };
            assert!(Item::decode(&written::<_, 136>(record)).is_none(), "{kind}");
        }
        let without_token = DirectoryRecord::default();
        assert!(Item::decode(&written::<_, 32>(without_token)).is_none());
        let without_name = FirstDirtyRecord {
            directory: 1,
            ..FirstDirtyRecord::default()
        };
        assert!(Item::decode(&written::<_, 136>(without_name)).is_none());
    }
}
