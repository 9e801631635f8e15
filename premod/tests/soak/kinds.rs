//! The operations that the workers choose from.

/// What an operation does to a file's data and to the dirty marks on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Modifies data, and leaves it dirty.
    Dirties,
    /// Modifies data, and may write dirty pages back or drop them on the way.
    DirtiesAndCleans,
    /// Modifies nothing, but may write dirty pages back.
    Cleans,
    /// Neither.
    None,
}

/// An operation on one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Write,
    Append,
    Writev,
    Direct,
    Store,
    StoreByKernel,
    Ftruncate,
    Truncate,
    OpenTruncate,
    Fallocate,
    Punch,
    Zero,
    Collapse,
    Insert,
    Clone,
    CloneRange,
    CopyRange,
    Splice,
    Sendfile,
    Rename,
    RenameDirectory,
    Recreate,
    Msync,
    Fsync,
    Fdatasync,
    SyncFileRange,
    Syncfs,
    Sync,
    DropCaches,
    Read,
    ReadMapped,
    Close,
}

/// How many there are.
pub(crate) const COUNT: usize = TABLE.len();

/// Each with its name, how often it is chosen among the others, and its effect.
const TABLE: [(Kind, &str, u32, Effect); 32] = {
    use Effect::{Cleans, Dirties, DirtiesAndCleans, None};
    [
        (Kind::Write, "pwrite", 1200, Dirties),
        (Kind::Append, "append", 400, Dirties),
        (Kind::Writev, "pwritev", 400, Dirties),
        (Kind::Direct, "O_DIRECT pwrite", 400, DirtiesAndCleans),
        (Kind::Store, "mmap store", 1600, Dirties),
        (Kind::StoreByKernel, "read into mmap", 400, Dirties),
        (Kind::Ftruncate, "ftruncate", 400, DirtiesAndCleans),
        (Kind::Truncate, "truncate", 200, DirtiesAndCleans),
        (Kind::OpenTruncate, "open O_TRUNC", 100, DirtiesAndCleans),
        (Kind::Fallocate, "fallocate", 200, DirtiesAndCleans),
        (Kind::Punch, "punch hole", 200, DirtiesAndCleans),
        (Kind::Zero, "zero range", 200, DirtiesAndCleans),
        (Kind::Collapse, "collapse range", 100, DirtiesAndCleans),
        (Kind::Insert, "insert range", 100, DirtiesAndCleans),
        (Kind::Clone, "FICLONE", 100, DirtiesAndCleans),
        (Kind::CloneRange, "FICLONERANGE", 200, DirtiesAndCleans),
        (Kind::CopyRange, "copy_file_range", 300, DirtiesAndCleans),
        (Kind::Splice, "splice", 200, Dirties),
        (Kind::Sendfile, "sendfile", 200, Dirties),
        (Kind::Rename, "rename", 200, None),
        (Kind::RenameDirectory, "rename of a directory", 40, None),
        (Kind::Recreate, "unlink and create", 60, Cleans),
        (Kind::Msync, "msync", 80, Cleans),
        (Kind::Fsync, "fsync", 100, Cleans),
        (Kind::Fdatasync, "fdatasync", 100, Cleans),
        (Kind::SyncFileRange, "sync_file_range", 100, Cleans),
        (Kind::Syncfs, "syncfs", 5, Cleans),
        (Kind::Sync, "sync", 2, Cleans),
        (Kind::DropCaches, "drop_caches", 2, Cleans),
        (Kind::Read, "read", 600, None),
        (Kind::ReadMapped, "mmap read", 400, None),
        (Kind::Close, "close", 200, Cleans),
    ]
};

impl Kind {
    /// Every kind, in the order of their numbers.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    /// One of them, as often as it is wanted.
    pub(crate) fn choose(random: &mut fastrand::Rng) -> Self {
        let mut ticket = random.u32(0..TABLE.iter().map(|row| row.2).sum());
        for (kind, _, weight, _) in TABLE {
            if ticket < weight {
                return kind;
            }
            ticket -= weight;
        }
        Self::Read
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        TABLE.get(usize::from(number)).map(|row| row.0)
    }

    pub(crate) fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    pub(crate) fn dirties(self) -> bool {
        matches!(self.effect(), Effect::Dirties | Effect::DirtiesAndCleans)
    }

    pub(crate) fn cleans(self) -> bool {
        matches!(self.effect(), Effect::Cleans | Effect::DirtiesAndCleans)
    }

    /// It concerns the filesystem rather than one file.
    pub(crate) fn is_everywhere(self) -> bool {
        matches!(
            self,
            Self::Syncfs | Self::Sync | Self::DropCaches | Self::RenameDirectory
        )
    }

    fn effect(self) -> Effect {
        TABLE[self as usize].3
    }
}
