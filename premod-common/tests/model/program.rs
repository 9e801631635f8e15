//! What the actors do: each operation as the kernel's sequence of hooks and effects.

/// A system call or a fault, on page 0 unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Buffered write of one page.
    Write,
    /// Buffered write of the other page.
    WriteOther,
    /// Buffered write of both pages, one after the other.
    LongWrite,
    /// A buffered write that fails (no space) after its last hook.
    FailingWrite,
    /// Store through a shared mapping.
    Store,
    /// Store to the other page.
    StoreOther,
    /// truncate: two hooks, drops all pages.
    Truncate,
    /// A direct write: leaves no page, takes the inode lock shared.
    DirectWrite,
    /// fsync whose hook comes first (`vfs_fsync_range`, `file_write_and_wait_range`).
    Fsync,
    /// fsync whose hook comes last (btrfs: `file_check_and_advance_wb_err`).
    FsyncHookLast,
    /// syncfs: `sync_inodes_sb` notes the time for the superblock.
    Syncfs,
}

/// A step of an operation; hooks take several steps of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    /// A hook that touches.
    Touch(Site),
    /// The data of the page changes, under the page's lock.
    CopyIn(u8),
    /// The tracepoint of a page becoming dirty, under the mapping's lock.
    Net(u8),
    /// The mapping gets its mark; its lock is given back.
    Mark(u8),
    /// `__mark_inode_dirty` of a page that was clean.
    SecondNet(u8),
    /// The page is dirty, whoever made it so, and its page table entry becomes writable.
    MarkWritable(u8),
    /// The store itself, or another fault if the page was written back in the meantime.
    Store(u8),
    /// A change that leaves no page; whether it drops those that are there.
    Change { drops_pages: bool },
    /// fsync begins.
    SyncBegins,
    /// The hook of fsync.
    SyncHook,
    /// The hook of syncfs.
    SyncTime,
    /// The page is written back, if it is dirty.
    Flush(u8),
    /// Everything that was changed before the sync began is on disk.
    SyncEnds,
}

/// Where a touch comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) unpaged: bool,
    /// Nothing but this touch and the inode lock stands between it and the modification.
    pub(crate) last: bool,
    /// The inode lock is taken before and held to the end of the operation.
    pub(crate) exclusive: bool,
    /// A fentry program, which the kernel may skip; LSM programs are never skipped.
    pub(crate) fentry: bool,
}

const PERMISSION: Instruction = Instruction::Touch(Site {
    unpaged: false,
    last: false,
    exclusive: false,
    fentry: false,
});
const WRITE_CHECKS: Instruction = Instruction::Touch(Site {
    unpaged: false,
    last: true,
    exclusive: true,
    fentry: true,
});
const PERMISSION_DIRECT: Instruction = Instruction::Touch(Site {
    unpaged: true,
    last: false,
    exclusive: false,
    fentry: false,
});
const WRITE_CHECKS_DIRECT: Instruction = Instruction::Touch(Site {
    unpaged: true,
    last: true,
    exclusive: false,
    fentry: true,
});
const NOTIFY_CHANGE: Instruction = Instruction::Touch(Site {
    unpaged: true,
    last: true,
    exclusive: true,
    fentry: true,
});
const PAGE_MKWRITE: Instruction = Instruction::Touch(Site {
    unpaged: false,
    last: true,
    exclusive: false,
    fentry: true,
});

use Instruction::{
    Change, CopyIn, Flush, Mark, MarkWritable, Net, SecondNet, Store, SyncBegins, SyncEnds,
    SyncHook, SyncTime,
};

/// The operation's steps.
pub(crate) fn program(op: Op) -> &'static [Instruction] {
    match op {
        Op::Write => &[
            PERMISSION,
            WRITE_CHECKS,
            CopyIn(0),
            Net(0),
            Mark(0),
            SecondNet(0),
        ],
        Op::WriteOther => &[
            PERMISSION,
            WRITE_CHECKS,
            CopyIn(1),
            Net(1),
            Mark(1),
            SecondNet(1),
        ],
        Op::LongWrite => &[
            PERMISSION,
            WRITE_CHECKS,
            CopyIn(0),
            Net(0),
            Mark(0),
            SecondNet(0),
            CopyIn(1),
            Net(1),
            Mark(1),
            SecondNet(1),
        ],
        Op::FailingWrite => &[PERMISSION, WRITE_CHECKS],
        Op::Store => &[
            PAGE_MKWRITE,
            Net(0),
            Mark(0),
            SecondNet(0),
            MarkWritable(0),
            Store(0),
        ],
        Op::StoreOther => &[
            PAGE_MKWRITE,
            Net(1),
            Mark(1),
            SecondNet(1),
            MarkWritable(1),
            Store(1),
        ],
        Op::Truncate => &[
            PERMISSION_DIRECT,
            NOTIFY_CHANGE,
            Change { drops_pages: true },
        ],
        Op::DirectWrite => &[
            PERMISSION_DIRECT,
            WRITE_CHECKS_DIRECT,
            Change { drops_pages: false },
        ],
        Op::Fsync => &[SyncBegins, SyncHook, Flush(0), Flush(1), SyncEnds],
        Op::FsyncHookLast => &[SyncBegins, Flush(0), Flush(1), SyncHook, SyncEnds],
        Op::Syncfs => &[SyncBegins, SyncTime, Flush(0), Flush(1), SyncEnds],
    }
}

/// The page whose writable page table entry spares a store its fault.
pub(crate) fn stored_page(op: Op) -> Option<u8> {
    match op {
        Op::Store => Some(0),
        Op::StoreOther => Some(1),
        _ => None,
    }
}
