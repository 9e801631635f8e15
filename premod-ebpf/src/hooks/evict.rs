//! The end of an inode's life in memory.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use premod_common::inode::InodeAddress;

use crate::{
    arguments::{Arguments, entries},
    maps::{INODES, SCOPE, setting},
    quiet,
    scope::parents,
};

/// `security_inode_free(struct inode *inode)`, 6.1 to 7.x: the last call before the memory is given back.
#[lsm(hook = "inode_free_security")]
fn lsm_inode_free_security(ctx: LsmContext) -> i32 {
    freed(ctx.arg(0));
    0
}

/// As [`lsm_inode_free_security`], where `bpf` is not among the active LSMs.
#[inline(always)]
fn inode_free(arguments: &impl Arguments) {
    freed(arguments.number(0));
}

entries!("security_inode_free": fentry_inode_free_security, kprobe_inode_free_security => inode_free);

#[inline(always)]
fn freed(address: InodeAddress) {
    let _ = INODES.remove(address);
    quiet::forget(address);
    // PATHs are kept open. The roots of filesystems mounted below them are not, so that they can be
    // unmounted.
    if setting!(scoped) != 0 {
        let _ = SCOPE.remove(address);
        parents::forget(address);
    }
}
