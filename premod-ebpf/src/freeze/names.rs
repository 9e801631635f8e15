//! Names on the ways to the guarded files: whoever renames, replaces or removes one makes a path lead to another file.
//!
//! premod holds each name's dentry, so that its address names it for as long as the freeze lasts.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use premod_common::{
    event::Op,
    guard::{Happening, Phase},
};

use crate::{
    guard,
    maps::{NAMES, count},
    tell::tell,
};

/// `security_inode_rename(struct inode *old_dir, struct dentry *old, struct inode *new_dir, struct dentry *new)`, 6.1
/// to 7.x. It is asked when all else allows it; an exchange asks twice.
#[lsm(hook = "inode_rename")]
fn inode_rename(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(4);
    if verdict == 0 {
        changes(ctx.arg(1));
        changes(ctx.arg(3));
    }
    verdict
}

/// `security_inode_unlink(struct inode *dir, struct dentry *dentry)`, 6.1 to 7.x.
#[lsm(hook = "inode_unlink")]
fn inode_unlink(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(2);
    if verdict == 0 {
        changes(ctx.arg(1));
    }
    verdict
}

/// `security_inode_rmdir(struct inode *dir, struct dentry *dentry)`, 6.1 to 7.x.
#[lsm(hook = "inode_rmdir")]
fn inode_rmdir(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(2);
    if verdict == 0 {
        changes(ctx.arg(1));
    }
    verdict
}

#[inline(always)]
fn changes(dentry: u64) {
    // SAFETY: only whether there is an entry matters.
    if unsafe { NAMES.get(dentry) }.is_none() {
        return;
    }
    count!(renamed);
    guard::enter(|phase, _| {
        if matches!(phase, Phase::Closed) {
            tell(dentry, Happening::Renamed, Op::Unknown, 0);
        }
        0
    });
}
