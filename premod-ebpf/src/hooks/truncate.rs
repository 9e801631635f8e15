//! Changes of size: truncate, ftruncate, open with `O_TRUNC`.

use aya_ebpf::{
    macros::{fentry, lsm},
    programs::{FEntryContext, LsmContext},
};
use premod_common::event::{Op, TO_THE_END};

use crate::{
    arguments::{Arguments, entries, pointer},
    emit::Change,
    kernel::{File, Inode, Place, load},
    touch::{Advances, touch},
};

/// `security_path_truncate(const struct path *path)`, 6.1 to 7.x: truncate; on 6.1 also ftruncate and
/// `O_TRUNC`. Called after the permission checks and before anything is changed.
#[lsm(hook = "path_truncate")]
fn lsm_path_truncate(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(1);
    if verdict == 0 {
        path_truncated(&ctx, ctx.arg(0));
    }
    verdict
}

/// As [`lsm_path_truncate`], where `bpf` is not among the active LSMs.
#[fentry(function = "security_path_truncate")]
fn fentry_path_truncate(ctx: FEntryContext) -> i32 {
    path_truncated(&ctx, ctx.arg(0));
    0
}

/// `security_file_truncate(struct file *file)`, 6.2 to 7.x: ftruncate and `O_TRUNC`.
#[lsm(hook = "file_truncate")]
fn lsm_file_truncate(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(1);
    if verdict == 0 {
        file_truncated(&ctx, File(ctx.arg(0)));
    }
    verdict
}

/// As [`lsm_file_truncate`], where `bpf` is not among the active LSMs.
#[fentry(function = "security_file_truncate")]
fn fentry_file_truncate(ctx: FEntryContext) -> i32 {
    file_truncated(&ctx, File(ctx.arg(0)));
    0
}

/// `notify_change(idmap, struct dentry *dentry, struct iattr *attr, …)`, 6.1 to 7.x.
///
/// Behind all of the above, under the inode lock: a second look after the locks that the others may have
/// slept on. And behind callers that ask no LSM: core dumps, accounting, overlayfs for its upper file, nfsd.
#[inline(always)]
fn attributes_changed(arguments: &impl Arguments) {
    let attributes = pointer!(arguments, 2, type_iattr);
    // SAFETY: the offset is that of ia_valid in struct iattr.
    let valid: u32 = unsafe { load!(attributes, iattr_ia_valid) };
    if valid & ATTR_SIZE == 0 {
        return;
    }
    let dentry = pointer!(arguments, 1, type_dentry);
    if dentry.is_null() {
        return;
    }
    // SAFETY: the offset is that of d_inode in struct dentry.
    let inode: *const u8 = unsafe { load!(dentry, dentry_d_inode) };
    if inode.is_null() {
        return;
    }
    // SAFETY: the offset is that of ia_size in struct iattr.
    let size: u64 = unsafe { load!(attributes, iattr_ia_size) };
    let place = Place {
        mount: 0,
        dentry: dentry as u64,
    };
    let change = Change {
        range: Some((size, TO_THE_END)),
        ..UNKNOWN_SIZE
    };
    touch(arguments, Inode(inode), place, change);
}

entries!("notify_change": notify_change, kprobe_notify_change => attributes_changed);

/// `ATTR_SIZE` of include/linux/fs.h: a macro, which BTF does not carry, with the same value since 2.6.
const ATTR_SIZE: u32 = 1 << 3;

#[inline(always)]
fn path_truncated(program: &impl Advances, path: *const u8) {
    // SAFETY: the offsets are those of dentry and mnt in struct path, and of d_inode in struct dentry.
    unsafe {
        let dentry: *const u8 = load!(path, path_dentry);
        if dentry.is_null() {
            return;
        }
        let inode: *const u8 = load!(dentry, dentry_d_inode);
        if inode.is_null() {
            return;
        }
        let place = Place {
            mount: load!(path, path_mnt),
            dentry: dentry as u64,
        };
        touch(program, Inode(inode), place, UNKNOWN_SIZE);
    }
}

#[inline(always)]
fn file_truncated(program: &impl Advances, file: File) {
    touch(program, file.inode(), file.place(), UNKNOWN_SIZE);
}

const UNKNOWN_SIZE: Change = Change {
    op: Op::Truncate as u8,
    unpaged: true,
    range: None,
};
