//! System calls that modify, at the last point where each can be refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use premod_common::{
    event::Op,
    guard::{Flight, Phase},
};

use crate::{
    call::Ioctl,
    flight::take_off,
    guard,
    keep_out::refuse,
    kernel::{File, Inode, load},
    kernel_use,
    maps::SUPERBLOCKS,
    running::Running,
};

/// `MAY_WRITE` of include/linux/fs.h: the permission bit of the mode, the same since Unix.
const MAY_WRITE: i32 = 0o2;
/// `MAY_READ`, likewise.
const MAY_READ: i32 = 0o4;
/// `ATTR_SIZE` of include/linux/fs.h: a macro, which BTF does not carry, with the same value since 2.6.
const ATTR_SIZE: u32 = 1 << 3;
/// ioctls that exchange the blocks of two files, and ask for no permission to write on one or both; see the
/// trace's hooks/exchange.rs.
const EXT4_IOC_MOVE_EXT: u32 = 0xc028_660f;
const EXT4_IOC_SWAP_BOOT: u32 = 0x6611;
const XFS_IOC_SWAPEXT: u32 = 0xc0c0_586d;
/// The same by programs of 32 bits, to which its structure is smaller (fs/xfs/xfs_ioctl32.h).
const XFS_IOC_SWAPEXT_32: u32 = 0xc0a4_586d;
/// `XFS_SUPER_MAGIC` of linux/magic.h.
const XFS: u64 = 0x5846_5342;

/// `security_file_permission(struct file *file, int mask)`, 6.1 to 7.x: the write family, fallocate, clone,
/// copy.
#[lsm(hook = "file_permission")]
fn file_permission(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(2);
    let mask: i32 = ctx.arg(1);
    // A comparison costs a read one instruction less than to look at a bit.
    if mask == MAY_READ || verdict != 0 {
        return verdict;
    }
    if mask & MAY_WRITE == 0 {
        return 0;
    }
    written(ctx.arg(0))
}

/// Out of line, so that a read pays for little more than the call of the program.
#[inline(never)]
fn written(file: *const u8) -> i32 {
    modify(File(file).inode(), Op::Write)
}

/// `security_inode_setattr(mnt_userns, struct dentry *dentry, struct iattr *attr)`, whose hook has two
/// arguments on 6.1: every change of size.
#[lsm(hook = "inode_setattr")]
fn inode_setattr_of_two(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(2);
    if verdict != 0 {
        return verdict;
    }
    set_size(ctx.arg(0), ctx.arg(1))
}

/// `security_inode_setattr(idmap, struct dentry *dentry, struct iattr *attr)`, later kernels.
#[lsm(hook = "inode_setattr")]
fn inode_setattr_of_three(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(3);
    if verdict != 0 {
        return verdict;
    }
    set_size(ctx.arg(1), ctx.arg(2))
}

#[inline(always)]
fn set_size(dentry: *const u8, attributes: *const u8) -> i32 {
    // SAFETY: the offset is that of ia_valid in struct iattr.
    let valid: u32 = unsafe { load!(attributes, iattr_ia_valid) };
    if valid & ATTR_SIZE == 0 || dentry.is_null() {
        return 0;
    }
    // SAFETY: the offset is that of d_inode in struct dentry.
    let inode: *const u8 = unsafe { load!(dentry, dentry_d_inode) };
    if inode.is_null() {
        return 0;
    }
    modify(Inode(inode), Op::Truncate)
}

/// `security_file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)`, 6.1 to 7.x.
#[lsm(hook = "file_ioctl")]
fn file_ioctl(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(3);
    if verdict != 0 {
        return verdict;
    }
    concerns_others(&ctx)
}

/// The same for programs of 32 bits, 6.8 to 7.x and later releases of 6.1.
#[lsm(hook = "file_ioctl_compat")]
fn file_ioctl_compat(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(3);
    if verdict != 0 {
        return verdict;
    }
    concerns_others(&ctx)
}

/// The ioctl modifies other files than the one that it is called on, perhaps, and asks for no permission.
#[inline(always)]
fn concerns_others(ctx: &LsmContext) -> i32 {
    let (file, command) = (File(ctx.arg(0)), ctx.arg(1));
    match exchange(file, command) {
        0 => kernel_use::hand_over(file, command, ctx.arg(2)),
        refused => refused,
    }
}

/// The other file is named in memory that its owner can change after we have looked. So these ioctls wait on
/// the whole filesystem.
#[inline(always)]
fn exchange(file: File, command: u32) -> i32 {
    let inode = file.inode();
    let filesystem = match command {
        EXT4_IOC_MOVE_EXT | EXT4_IOC_SWAP_BOOT => inode.superblock().address(),
        // It names both files in memory, and the one that it is called on may be on another filesystem.
        XFS_IOC_SWAPEXT | XFS_IOC_SWAPEXT_32 => XFS,
        _ => return 0,
    };
    // SAFETY: only whether there is an entry matters.
    if unsafe { SUPERBLOCKS.get(filesystem) }.is_none() {
        return 0;
    }
    guard::enter(|phase, now| judge(inode, Op::Ioctl, phase, now))
}

/// The running task is about to modify the inode.
#[inline(always)]
pub(crate) fn modify(inode: Inode, op: Op) -> i32 {
    guard::at(inode.address(), |phase, now| judge(inode, op, phase, now))
}

#[inline(always)]
fn judge(inode: Inode, op: Op, phase: Phase, now: u64) -> i32 {
    let task = Running::now();
    if matches!(phase, Phase::Open) || Ioctl::now().is_dedupe() {
        return 0;
    }
    if matches!(phase, Phase::Closed) {
        return refuse(inode.address(), op, now);
    }
    let flight = if task.is_in_call() {
        Flight::Call
    } else {
        Flight::Kernel
    };
    take_off(inode.address(), flight, now);
    0
}
