//! Calls that change a file's blocks or share another file's: fallocate, clone, copy.
//!
//! The kernel skips a program that runs already on the same CPU, for another task that was preempted. A copy's
//! writes come by other hooks later; for the rest there is a second program each, which then runs.

use aya_ebpf::{macros::fentry, programs::FEntryContext};
use premod_common::event::{Op, TO_THE_END};

use crate::{emit::Change, kernel::File, touch::touch};

/// `vfs_fallocate(struct file *file, int mode, loff_t offset, loff_t len)`, 6.1 to 7.x; also behind
/// `MADV_REMOVE`.
#[fentry(function = "vfs_fallocate")]
fn vfs_fallocate(ctx: FEntryContext) -> i32 {
    changed(File(ctx.arg(0)), Op::Fallocate, ctx.arg(2), ctx.arg(3));
    0
}

/// As [`vfs_fallocate`], a second time.
#[fentry(function = "vfs_fallocate")]
fn vfs_fallocate_again(ctx: FEntryContext) -> i32 {
    changed(File(ctx.arg(0)), Op::Fallocate, ctx.arg(2), ctx.arg(3));
    0
}

/// `vfs_clone_file_range(file_in, pos_in, file_out, pos_out, loff_t len, flags)`, 6.1 to 7.x. A length of
/// 0 means all from `pos_in` on.
#[fentry(function = "vfs_clone_file_range")]
fn vfs_clone_file_range(ctx: FEntryContext) -> i32 {
    let length: u64 = ctx.arg(4);
    let length = if length == 0 { TO_THE_END } else { length };
    changed(File(ctx.arg(2)), Op::Clone, ctx.arg(3), length);
    0
}

/// `do_clone_file_range(file_in, pos_in, file_out, pos_out, loff_t len, flags)`, 6.1 only: behind the above, and
/// called by overlayfs.
#[fentry(function = "do_clone_file_range")]
fn do_clone_file_range(ctx: FEntryContext) -> i32 {
    changed(File(ctx.arg(2)), Op::Clone, ctx.arg(3), TO_THE_END);
    0
}

/// `remap_verify_area(struct file *file, loff_t pos, loff_t len, bool write)`, 6.12 to 7.x: behind clones, by
/// whomever they are called, deduplication, and XFS's exchange of ranges. On 6.1 the compiler has put it into
/// its callers.
#[fentry(function = "remap_verify_area")]
fn remap_verify_area(ctx: FEntryContext) -> i32 {
    let write: u32 = ctx.arg(3);
    if write & 0xff != 0 {
        changed(File(ctx.arg(0)), Op::Write, ctx.arg(1), ctx.arg(2));
    }
    0
}

/// `vfs_copy_file_range(file_in, pos_in, file_out, pos_out, size_t len, flags)`, 6.1 to 7.x.
#[fentry(function = "vfs_copy_file_range")]
fn vfs_copy_file_range(ctx: FEntryContext) -> i32 {
    changed(File(ctx.arg(2)), Op::Copy, ctx.arg(3), ctx.arg(4));
    0
}

#[inline(always)]
fn changed(file: File, op: Op, offset: u64, length: u64) {
    if file.is_read_only() {
        return;
    }
    let change = Change {
        op: op as u8,
        unpaged: true,
        range: Some((offset, length)),
    };
    touch(file.inode(), file.place(), change);
}
