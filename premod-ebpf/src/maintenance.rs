//! What a filesystem does to files in its own interest: it moves data, and no byte changes.
//!
//! Its pages become dirty like those of a write, so it has to be told apart. Only the hooks on single pages ask: a
//! write has been announced by the time it comes to those.

use aya_ebpf::helpers::{bpf_get_current_comm, generated::bpf_get_current_task_btf};

use crate::{
    call::Ioctl,
    facts::fact,
    kernel::{load, read, untyped},
};

/// `BTRFS_SUPER_MAGIC` of linux/magic.h.
pub(crate) const BTRFS: u64 = 0x9123_683e;
/// `PF_KTHREAD` of linux/sched.h: a thread of the kernel, whose name nobody else can give himself. The same from 2.6.27
/// to 7.x.
const KERNEL_THREAD: u32 = 0x0020_0000;
/// The thread that defragments files by itself (mount option `autodefrag`); it writes nobody's data.
const CLEANER: [u8; 16] = *b"btrfs-cleaner\0\0\0";

/// Whether the running task defragments files of btrfs, where the inode at this address is.
#[inline(always)]
pub(crate) fn moves_data(inode: u64) -> bool {
    is_maintenance(untyped(inode)) != 0
}

/// Verified by itself, once in a program.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_maintenance(inode: u64) -> u64 {
    let superblock = read(inode + u64::from(fact!(inode_i_sb)));
    if read(superblock + u64::from(fact!(super_block_s_magic))) != BTRFS {
        return 0;
    }
    u64::from(Ioctl::now().is_defragmentation() || is_cleaner())
}

#[inline(always)]
fn is_cleaner() -> bool {
    // SAFETY: the helper has no preconditions and returns a task_struct, whose flags are an unsigned int.
    let flags: u32 = unsafe {
        load!(
            bpf_get_current_task_btf().cast_const().cast(),
            task_struct_flags
        )
    };
    flags & KERNEL_THREAD != 0 && bpf_get_current_comm().is_ok_and(|name| name == CLEANER)
}
