//! Names on the ways to the guarded files: whoever renames, replaces or removes one, or mounts something there, makes a path
//! lead to another file.
//!
//! premod holds each name's dentry, so that its address names it for as long as the freeze lasts.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use premod_common::{
    event::Op,
    guard::{Happening, Phase},
};

use crate::{
    facts::fact,
    guard,
    kernel::{namespace_of, read},
    set::{Set, count, each},
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

/// Flags of mount(2) by which nothing is mounted: another mount is changed (`MS_REMOUNT`, `MS_UNBINDABLE`, `MS_PRIVATE`,
/// `MS_SLAVE`, `MS_SHARED` of the kernel's stable interface).
const NOTHING_MOUNTED: u64 = 1 << 5 | 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20;

/// `security_sb_mount(const char *dev_name, const struct path *path, const char *type, unsigned long flags, void *data)`, 6.1
/// to 7.x: mount(2).
#[lsm(hook = "sb_mount")]
fn sb_mount(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(5);
    let flags: u64 = ctx.arg(3);
    if verdict == 0 && flags & NOTHING_MOUNTED == 0 {
        covers(ctx.arg(1));
    }
    verdict
}

/// `security_move_mount(const struct path *from_path, const struct path *to_path)`, 6.1 to 7.x: move_mount(2), which newer
/// programs mount by.
#[lsm(hook = "move_mount")]
fn move_mount(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(2);
    if verdict == 0 {
        covers(ctx.arg(1));
    }
    verdict
}

/// Something is about to be mounted at this `struct path`. In other namespaces (a service's private /tmp, a container) the
/// same name leads to whatever is mounted there.
#[inline(always)]
fn covers(path: u64) {
    let mount = read(path + u64::from(fact!(path_mnt)));
    let mut name = Name {
        dentry: read(path + u64::from(fact!(path_dentry))),
        namespace: Some(namespace_of(mount)),
    };
    each(&mut name, changes_for);
}

#[inline(always)]
fn changes(dentry: u64) {
    let mut name = Name {
        dentry,
        namespace: None,
    };
    each(&mut name, changes_for);
}

/// A name that changes: for everybody, or in one mount namespace.
struct Name {
    dentry: u64,
    namespace: Option<u64>,
}

unsafe extern "C" fn changes_for(place: u64, name: *mut Name) -> i64 {
    let set = Set::at(place as u32);
    // SAFETY: the loop passes what it was given.
    let (dentry, namespace) = unsafe { ((*name).dentry, (*name).namespace) };
    let Some(names) = set.names() else {
        return 0;
    };
    // SAFETY: only whether there is an entry matters.
    let is_known = unsafe { names.get(dentry) }.is_some();
    if !is_known || namespace.is_some_and(|namespace| namespace != set.own().namespace) {
        return 0;
    }
    count!(set, renamed);
    guard::enter(set, |phase, _| {
        if matches!(phase, Phase::Closed) {
            tell(set, dentry, Happening::Renamed, Op::Unknown, 0);
        }
        0
    });
    0
}
