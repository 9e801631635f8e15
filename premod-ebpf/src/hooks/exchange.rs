//! ioctls that exchange the blocks of two files, and ask for no permission to write on either, or on one of
//! them only: `EXT4_IOC_MOVE_EXT`, `EXT4_IOC_SWAP_BOOT`, `XFS_IOC_SWAPEXT`, and whatever comes after them.
//!
//! Before they change anything they lock both files, in the one function of the kernel that does. Others who call it
//! are renames, which are no ioctls, and clones, of which other hooks know more.

use premod_common::event::Op;

use crate::{
    arguments::{Arguments, entries, pointer},
    call::Ioctl,
    emit::Change,
    kernel::{Inode, Place},
    touch::{Advances, touch},
};

/// `lock_two_nondirectories(struct inode *inode1, struct inode *inode2)`, 6.1 to 7.x: called by
/// `ext4_move_extents`, `swap_inode_boot_loader` and `xfs_swap_extents` before their changes.
#[inline(always)]
fn lock_two(arguments: &impl Arguments) {
    let ioctl = Ioctl::now();
    if ioctl.is_any() && !ioctl.is_remap() {
        exchanged(arguments, pointer!(arguments, 0, type_inode));
        exchanged(arguments, pointer!(arguments, 1, type_inode));
    }
}

entries!("lock_two_nondirectories": lock_two_nondirectories, kprobe_lock_two_nondirectories => lock_two);

#[inline(always)]
fn exchanged(program: &impl Advances, inode: *const u8) {
    if inode.is_null() {
        return;
    }
    let change = Change {
        op: Op::Ioctl as u8,
        unpaged: true,
        range: None,
    };
    touch(program, Inode(inode), Place::unknown(), change);
}
