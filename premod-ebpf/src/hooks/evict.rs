//! The end of an inode's life in memory.

use aya_ebpf::{
    macros::{fentry, lsm},
    programs::{FEntryContext, LsmContext},
};

use crate::maps::INODES;

/// `security_inode_free(struct inode *inode)`, 6.1 to 7.x: the last call before the memory is given back.
#[lsm(hook = "inode_free_security")]
fn lsm_inode_free_security(ctx: LsmContext) -> i32 {
    let inode: *const u8 = ctx.arg(0);
    let _ = INODES.remove(inode as u64);
    0
}

/// As [`lsm_inode_free_security`], where `bpf` is not among the active LSMs.
#[fentry(function = "security_inode_free")]
fn fentry_inode_free_security(ctx: FEntryContext) -> i32 {
    let inode: *const u8 = ctx.arg(0);
    let _ = INODES.remove(inode as u64);
    0
}
