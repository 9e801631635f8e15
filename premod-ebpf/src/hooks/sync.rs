//! Moments at which a change that left no dirty page may have reached the disk.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry},
    programs::{BtfTracePointContext, FEntryContext},
};

use crate::{
    kernel::{File, Inode},
    touch::synced,
};

/// `vfs_fsync_range(struct file *file, loff_t start, loff_t end, int datasync)`, 6.1 to 7.x: fsync,
/// fdatasync, msync, `O_SYNC`, nfsd's commit.
#[fentry(function = "vfs_fsync_range")]
fn vfs_fsync_range(ctx: FEntryContext) -> i32 {
    synced(File(ctx.arg(0)).inode());
    0
}

/// Tracepoint `writeback_single_inode(struct inode *inode, ...)`, 6.1 to 7.x: the flusher, sync, syncfs.
#[btf_tracepoint(function = "writeback_single_inode")]
fn writeback_single_inode(ctx: BtfTracePointContext) -> i32 {
    synced(Inode(ctx.arg(0)));
    0
}
