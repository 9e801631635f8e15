//! The write family.

use aya_ebpf::{
    macros::{fentry, lsm},
    programs::{FEntryContext, LsmContext},
};
use premod_common::event::Op;

use crate::{
    emit::Change,
    kernel::{File, load},
    maps::fact,
    touch::touch,
};

/// `MAY_WRITE` of include/linux/fs.h: the permission bit of the mode, the same since Unix.
const MAY_WRITE: i32 = 0o2;

/// `security_file_permission(struct file *file, int mask)`, 6.1 to 7.x.
///
/// Called by `rw_verify_area`, `remap_verify_area` and `vfs_fallocate` before anything is changed. Not
/// called by the loop device from 6.12 on; [`generic_write_checks`] sees it.
#[lsm(hook = "file_permission")]
fn lsm_file_permission(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(2);
    if verdict == 0 {
        permission(File(ctx.arg(0)), ctx.arg(1));
    }
    verdict
}

/// As [`lsm_file_permission`], where `bpf` is not among the active LSMs.
#[fentry(function = "security_file_permission")]
fn fentry_file_permission(ctx: FEntryContext) -> i32 {
    permission(File(ctx.arg(0)), ctx.arg(1));
    0
}

#[inline(always)]
fn permission(file: File, mask: i32) {
    if mask & MAY_WRITE != 0 {
        let change = Change {
            op: Op::Write as u8,
            unpaged: file.is_direct(),
            range: None,
        };
        touch(file.inode(), file.place(), change);
    }
}

/// `generic_write_checks(struct kiocb *iocb, struct iov_iter *from)`, 6.1 to 7.x.
///
/// The last hook that ext4, xfs and btrfs have in common before the data is copied, under the inode lock:
/// a writer that slept since its permission check, while the inode became clean, is announced here.
#[fentry(function = "generic_write_checks")]
fn generic_write_checks(ctx: FEntryContext) -> i32 {
    let iocb: *const u8 = ctx.arg(0);
    let from: *const u8 = ctx.arg(1);
    // SAFETY: the offset is that of count in struct iov_iter.
    let length = unsafe { load(from, fact!(iov_iter_count)) };
    checked(iocb, Some(length));
    0
}

/// `generic_write_checks_count(struct kiocb *iocb, loff_t *count)`, 6.1 to 7.x: the same for btrfs's encoded
/// writes. The function above has it inlined, so that other writes do not come by.
#[fentry(function = "generic_write_checks_count")]
fn generic_write_checks_count(ctx: FEntryContext) -> i32 {
    checked(ctx.arg(0), None);
    0
}

#[inline(always)]
fn checked(iocb: *const u8, length: Option<u64>) {
    // SAFETY: the offsets are those of ki_filp and ki_pos in struct kiocb.
    let (file, position) = unsafe {
        (
            File(load(iocb, fact!(kiocb_ki_filp))),
            load::<u64>(iocb, fact!(kiocb_ki_pos)),
        )
    };
    let change = Change {
        op: Op::Write as u8,
        // An encoded write puts its blocks below the page cache.
        unpaged: length.is_none() || file.is_direct(),
        range: length.map(|length| (position, length)),
    };
    touch(file.inode(), file.place(), change);
}
