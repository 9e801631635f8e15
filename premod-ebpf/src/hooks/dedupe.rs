//! Deduplication: a file's blocks are replaced by equal ones of another file, and no byte changes.
//!
//! It asks for the same permission as a write, so it has to be told apart. A touch that belongs to it is
//! treated like one of premod's own: it is not announced, and hides nobody else's.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use crate::{
    kernel::{File, current_task},
    latch::Latch,
    maps::DEDUPES,
};

/// Somebody has deduplicated since premod began: else there is no need to look for the running task.
static HAPPENS: Latch = Latch::new();

/// `vfs_dedupe_file_range_one(src_file, src_pos, dst_file, dst_pos, len, flags)`, 6.1 to 7.x: asks for
/// permission, and then has the filesystem compare and share.
#[fentry(function = "vfs_dedupe_file_range_one")]
fn dedupe_begins(ctx: FEntryContext) -> i32 {
    let target = File(ctx.arg(2)).inode().address();
    HAPPENS.raise(1);
    let _ = DEDUPES.insert(current_task(), target, 0);
    0
}

/// The same at its exit. If this one is skipped, the next write of the task to the same file is taken for
/// part of the deduplication; the skip is counted as lost.
#[fexit(function = "vfs_dedupe_file_range_one")]
fn dedupe_ends(_ctx: FExitContext) -> i32 {
    let _ = DEDUPES.remove(current_task());
    0
}

/// Whether the running task deduplicates the inode at this address, which is then forgotten: permission is asked once.
#[inline(always)]
pub(crate) fn is_deduplicating(inode: u64) -> bool {
    if HAPPENS.get() == 0 {
        return false;
    }
    let task = current_task();
    // SAFETY: a shared reference into a map value that only this task changes.
    let target = unsafe { DEDUPES.get(task) }.copied();
    target == Some(inode) && DEDUPES.remove(task).is_ok()
}
