//! ioctls that exchange the blocks of two files, and ask for no permission to write on either, or on one of
//! them only.
//!
//! The ioctl names one of the files. Before it changes anything it locks both, in the one function of the
//! kernel that does: there, both are touched.

use premod_common::event::Op;

use crate::{
    arguments::{Arguments, entries, pointer},
    emit::Change,
    kernel::{Inode, Place, current_task},
    maps::EXCHANGES,
    touch::touch,
};

/// `EXT4_IOC_MOVE_EXT`, `_IOWR('f', 15, struct move_extent)` of fs/ext4/ext4.h: the kernel's stable
/// interface, as are the others.
const EXT4_IOC_MOVE_EXT: u32 = 0xc028_660f;
/// `EXT4_IOC_SWAP_BOOT`, `_IO('f', 17)`.
const EXT4_IOC_SWAP_BOOT: u32 = 0x6611;
/// `XFS_IOC_SWAPEXT`, `_IOWR('X', 109, struct xfs_swapext)` of fs/xfs/libxfs/xfs_fs.h.
const XFS_IOC_SWAPEXT: u32 = 0xc0c0_586d;

// `security_file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)`, 6.1 to 7.x.
entries!("security_file_ioctl": security_file_ioctl, kprobe_security_file_ioctl => note);

// The same for programs of 32 bits, 6.8 to 7.x and later releases of 6.1.
entries!("security_file_ioctl_compat": security_file_ioctl_compat, kprobe_security_file_ioctl_compat => note);

#[inline(always)]
fn note(arguments: &impl Arguments) {
    let command = arguments.number(1) as u32;
    if matches!(
        command,
        EXT4_IOC_MOVE_EXT | EXT4_IOC_SWAP_BOOT | XFS_IOC_SWAPEXT
    ) {
        let _ = EXCHANGES.insert(current_task(), command, 0);
    }
}

/// `lock_two_nondirectories(struct inode *inode1, struct inode *inode2)`, 6.1 to 7.x: called by
/// `ext4_move_extents`, `swap_inode_boot_loader` and `xfs_swap_extents` before their changes, but also by
/// renames, which is what the note is for. A note whose ioctl failed early is used up by the task's next
/// rename: an event too many.
#[inline(always)]
fn lock_two(arguments: &impl Arguments) {
    if EXCHANGES.remove(current_task()).is_ok() {
        exchanged(pointer!(arguments, 0, type_inode));
        exchanged(pointer!(arguments, 1, type_inode));
    }
}

entries!("lock_two_nondirectories": lock_two_nondirectories, kprobe_lock_two_nondirectories => lock_two);

#[inline(always)]
fn exchanged(inode: *const u8) {
    if inode.is_null() {
        return;
    }
    let change = Change {
        op: Op::Ioctl as u8,
        unpaged: true,
        range: None,
    };
    touch(Inode(inode), Place::unknown(), change);
}
