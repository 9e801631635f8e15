//! Moments at which a change that left no dirty page reaches the disk.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, macros::fentry, programs::FEntryContext};

use crate::{
    kernel::{File, SuperBlock},
    maps::{LAST_SYNC, SYNCED},
    touch::synced,
};

/// `vfs_fsync_range(struct file *file, loff_t start, loff_t end, int datasync)`, 6.1 to 7.x: fsync,
/// fdatasync, msync, `O_SYNC`, nfsd's commit. On 7.3 the compiler has put it into its callers, so that
/// fsync does not come by; the two below see it there.
#[fentry(function = "vfs_fsync_range")]
fn vfs_fsync_range(ctx: FEntryContext) -> i32 {
    synced(File(ctx.arg(0)).inode());
    0
}

/// `file_write_and_wait_range(struct file *file, loff_t start, loff_t end)`, 6.1 to 7.x: what ext4, xfs and
/// most other filesystems do first in an fsync.
#[fentry(function = "file_write_and_wait_range")]
fn file_write_and_wait_range(ctx: FEntryContext) -> i32 {
    synced(File(ctx.arg(0)).inode());
    0
}

/// `file_check_and_advance_wb_err(struct file *file)`, 6.1 to 7.x: what btrfs, which does not call the
/// above, does last in an fsync.
#[fentry(function = "file_check_and_advance_wb_err")]
fn file_check_and_advance_wb_err(ctx: FEntryContext) -> i32 {
    synced(File(ctx.arg(0)).inode());
    0
}

/// `sync_inodes_sb(struct super_block *sb)`, 6.1 to 7.x: sync, syncfs, freezing, remounting read-only.
///
/// The tracepoint `writeback_single_inode` would not do: on xfs and btrfs a truncate does not make the
/// VFS's inode dirty, so that it never fires for it.
#[fentry(function = "sync_inodes_sb")]
fn sync_inodes_sb(ctx: FEntryContext) -> i32 {
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // First: who sees no sync at all does not look for that of the filesystem.
    LAST_SYNC.raise(now);
    let _ = SYNCED.insert(SuperBlock(ctx.arg(0)).address(), now, 0);
    0
}
