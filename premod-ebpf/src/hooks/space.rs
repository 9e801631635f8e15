//! Calls that change a file's blocks or share another file's: fallocate, clone, copy.
//!
//! `security_file_permission` sees them too, a little later; these hooks know what is being done, and
//! where.

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

/// `vfs_clone_file_range(file_in, pos_in, file_out, pos_out, loff_t len, flags)`, 6.1 to 7.x. A length of
/// 0 means all from `pos_in` on.
#[fentry(function = "vfs_clone_file_range")]
fn vfs_clone_file_range(ctx: FEntryContext) -> i32 {
    let length: u64 = ctx.arg(4);
    let length = if length == 0 { TO_THE_END } else { length };
    changed(File(ctx.arg(2)), Op::Clone, ctx.arg(3), length);
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
