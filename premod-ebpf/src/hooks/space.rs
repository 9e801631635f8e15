//! Calls that change a file's blocks or share another file's: fallocate, clone, copy.

use aya_ebpf::{macros::fentry, programs::FEntryContext};
use premod_common::event::{Op, TO_THE_END};

use crate::{
    arguments::{Arguments, entries, pointer},
    call::Ioctl,
    emit::Change,
    kernel::File,
    touch::{Advances, touch},
};

/// `vfs_fallocate(struct file *file, int mode, loff_t offset, loff_t len)`, 6.1 to 7.x; also behind
/// `MADV_REMOVE`.
#[inline(always)]
fn fallocate(arguments: &impl Arguments) {
    let file = File(pointer!(arguments, 0, type_file));
    changed(
        arguments,
        file,
        Op::Fallocate,
        arguments.number(2),
        arguments.number(3),
    );
}

entries!("vfs_fallocate": vfs_fallocate, kprobe_vfs_fallocate => fallocate);

/// `vfs_clone_file_range(file_in, pos_in, file_out, pos_out, loff_t len, flags)`, 6.1 to 7.x. A length of
/// 0 means all from `pos_in` on.
#[inline(always)]
fn clone(arguments: &impl Arguments) {
    let file = File(pointer!(arguments, 2, type_file));
    let length = match arguments.number(4) {
        0 => TO_THE_END,
        length => length,
    };
    changed(arguments, file, Op::Clone, arguments.number(3), length);
}

entries!("vfs_clone_file_range": vfs_clone_file_range, kprobe_vfs_clone_file_range => clone);

/// `do_clone_file_range(file_in, pos_in, file_out, pos_out, loff_t len, flags)`, 6.1 only: behind the above, and
/// called by overlayfs.
#[fentry(function = "do_clone_file_range")]
fn do_clone_file_range(ctx: FEntryContext) -> i32 {
    changed(&ctx, File(ctx.arg(2)), Op::Clone, ctx.arg(3), TO_THE_END);
    0
}

/// `remap_verify_area(struct file *file, loff_t pos, loff_t len, bool write)`, 6.12 to 7.x: behind clones, by
/// whomever they are called, deduplication, and XFS's exchange of ranges. On 6.1 the compiler has put it into
/// its callers, and deduplication comes by no hook.
///
/// Deduplication replaces a file's blocks by equal ones. It asks for the same permission as a write, and changes no byte.
#[inline(always)]
fn remap(arguments: &impl Arguments) {
    let writes = arguments.number(3) as u8 != 0;
    if writes && !Ioctl::now().is_dedupe() {
        let file = File(pointer!(arguments, 0, type_file));
        changed(
            arguments,
            file,
            Op::Write,
            arguments.number(1),
            arguments.number(2),
        );
    }
}

entries!("remap_verify_area": remap_verify_area, kprobe_remap_verify_area => remap);

/// `vfs_copy_file_range(file_in, pos_in, file_out, pos_out, size_t len, flags)`, 6.1 to 7.x.
#[inline(always)]
fn copy(arguments: &impl Arguments) {
    let file = File(pointer!(arguments, 2, type_file));
    changed(
        arguments,
        file,
        Op::Copy,
        arguments.number(3),
        arguments.number(4),
    );
}

entries!("vfs_copy_file_range": vfs_copy_file_range, kprobe_vfs_copy_file_range => copy);

#[inline(always)]
fn changed(program: &impl Advances, file: File, op: Op, offset: u64, length: u64) {
    if file.is_read_only() {
        return;
    }
    let change = Change {
        op: op as u8,
        unpaged: true,
        range: Some((offset, length)),
    };
    touch(program, file.inode(), file.place(), change);
}
