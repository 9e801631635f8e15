//! Enrolment: user space learns the kernel's own identity of an inode it has open.

use aya_ebpf::{macros::fentry, programs::FEntryContext};
use premod_common::inode::Enrolled;

use crate::{
    kernel::{File, current_process, namespace_of, untyped},
    maps::{ENROLLED, setting},
};

/// `security_file_fcntl(struct file *file, unsigned int cmd, unsigned long arg)`, 6.1 to 7.x.
///
/// premod calls `fcntl(fd, F_GETFD, nonce)`; the kernel ignores the argument, and this program knows it
/// by it. Attached only while premod asks.
#[fentry(function = "security_file_fcntl")]
fn security_file_fcntl(ctx: FEntryContext) -> i32 {
    let argument: u64 = ctx.arg(2);
    if argument != setting!(nonce) {
        return 0;
    }
    let file = File(ctx.arg(0));
    let inode = file.inode();
    let superblock = inode.superblock();
    let answer = Enrolled {
        inode: inode.address(),
        bdi: superblock.bdi(),
        magic: superblock.magic(),
        mapping_flags: inode.mapping_flags(),
        tgid: current_process(),
        namespace: namespace_of(untyped(file.place().mount)),
    };
    let _ = ENROLLED.set(0, answer, 0);
    0
}
