//! Changes of size: truncate, ftruncate, open with `O_TRUNC`.

use aya_ebpf::{
    macros::{fentry, lsm},
    programs::{FEntryContext, LsmContext},
};
use premod_common::event::{Op, TO_THE_END};

use crate::{
    emit::Change,
    kernel::{File, Inode, Place, load},
    maps::fact,
    touch::touch,
};

/// `security_path_truncate(const struct path *path)`, 6.1 to 7.x: truncate; on 6.1 also ftruncate and
/// `O_TRUNC`. Called after the permission checks and before anything is changed.
#[lsm(hook = "path_truncate")]
fn lsm_path_truncate(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(1);
    if verdict == 0 {
        path_truncated(ctx.arg(0));
    }
    verdict
}

/// As [`lsm_path_truncate`], where `bpf` is not among the active LSMs.
#[fentry(function = "security_path_truncate")]
fn fentry_path_truncate(ctx: FEntryContext) -> i32 {
    path_truncated(ctx.arg(0));
    0
}

/// `security_file_truncate(struct file *file)`, 6.2 to 7.x: ftruncate and `O_TRUNC`.
#[lsm(hook = "file_truncate")]
fn lsm_file_truncate(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(1);
    if verdict == 0 {
        file_truncated(File(ctx.arg(0)));
    }
    verdict
}

/// As [`lsm_file_truncate`], where `bpf` is not among the active LSMs.
#[fentry(function = "security_file_truncate")]
fn fentry_file_truncate(ctx: FEntryContext) -> i32 {
    file_truncated(File(ctx.arg(0)));
    0
}

/// `do_truncate(idmap, struct dentry *dentry, loff_t length, time_attrs, struct file *filp)`, 6.1 to 7.x.
///
/// Behind all of the above, and behind callers that ask no LSM (core dumps, accounting). A second look
/// after the locks that the others may have slept on.
#[fentry(function = "do_truncate")]
fn do_truncate(ctx: FEntryContext) -> i32 {
    let dentry: *const u8 = ctx.arg(1);
    if dentry.is_null() {
        return 0;
    }
    // SAFETY: the offset is that of d_inode in struct dentry.
    let inode: *const u8 = unsafe { load(dentry, fact!(dentry_d_inode)) };
    if inode.is_null() {
        return 0;
    }
    truncated(
        Inode(inode),
        Place {
            mount: 0,
            dentry: dentry as u64,
        },
        ctx.arg(2),
    );
    0
}

#[inline(always)]
fn path_truncated(path: *const u8) {
    // SAFETY: the offsets are those of dentry and mnt in struct path, and of d_inode in struct dentry.
    unsafe {
        let dentry: *const u8 = load(path, fact!(path_dentry));
        if dentry.is_null() {
            return;
        }
        let inode: *const u8 = load(dentry, fact!(dentry_d_inode));
        if inode.is_null() {
            return;
        }
        let place = Place {
            mount: load(path, fact!(path_mnt)),
            dentry: dentry as u64,
        };
        touch(Inode(inode), place, UNKNOWN_SIZE);
    }
}

#[inline(always)]
fn file_truncated(file: File) {
    touch(file.inode(), file.place(), UNKNOWN_SIZE);
}

#[inline(always)]
fn truncated(inode: Inode, place: Place, size: u64) {
    let range = Some((size, TO_THE_END));
    touch(
        inode,
        place,
        Change {
            range,
            ..UNKNOWN_SIZE
        },
    );
}

const UNKNOWN_SIZE: Change = Change {
    op: Op::Truncate as u8,
    unpaged: true,
    range: None,
};
