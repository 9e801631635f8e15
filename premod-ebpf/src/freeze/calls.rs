//! System calls that modify, at the last point where each can be refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use premod_common::{
    event::Op,
    guard::{Flight, Phase},
    inode::InodeAddress,
};

use crate::{
    call::Ioctl,
    flight::take_off,
    guard,
    keep_out::refuse,
    kernel::{File, Inode, load},
    kernel_use,
    running::Running,
    set::{Set, each},
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
    // A freeze may end between the look and the answer, and there may be another one.
    for _ in 0..EXCHANGE_LOOKS {
        let mut exchange = Exchange {
            filesystem,
            inode: inode.address(),
            closed: NOWHERE,
        };
        each(&mut exchange, exchanges_in);
        if exchange.closed == NOWHERE {
            return 0;
        }
        let set = Set::at(exchange.closed);
        let verdict = guard::enter(set, |phase, now| judge(set, inode, Op::Ioctl, phase, now));
        if verdict != 0 {
            return verdict;
        }
    }
    0
}

/// How often it is looked for a freeze that has to keep an exchange out.
const EXCHANGE_LOOKS: u32 = 2;

/// No place.
const NOWHERE: u32 = u32::MAX;

/// An exchange on a filesystem; the place of a freeze there which keeps modifiers out.
struct Exchange {
    filesystem: u64,
    inode: InodeAddress,
    closed: u32,
}

/// Notes it for one freeze that has files there, or ends the search at one that has to keep it out.
unsafe extern "C" fn exchanges_in(place: u64, exchange: *mut Exchange) -> i64 {
    let set = Set::at(place as u32);
    // SAFETY: the loop passes what it was given.
    let (filesystem, inode) = unsafe { ((*exchange).filesystem, (*exchange).inode) };
    let superblocks = set.superblocks();
    // SAFETY: only whether there is an entry matters.
    if superblocks.is_none_or(|it| unsafe { it.get(filesystem) }.is_none()) {
        return 0;
    }
    guard::enter(set, |phase, now| {
        match phase {
            Phase::Open => return 0,
            Phase::Watching => {
                take_off(set, inode, Flight::Call, now);
                return 0;
            }
            // SAFETY: as above.
            Phase::Closed => unsafe { (*exchange).closed = place as u32 },
        }
        1
    })
    .into()
}

/// The running task is about to modify the inode.
#[inline(always)]
pub(crate) fn modify(inode: Inode, op: Op) -> i32 {
    guard::at(inode.address(), |set, phase, now| {
        judge(set, inode, op, phase, now)
    })
}

#[inline(always)]
fn judge(set: Set, inode: Inode, op: Op, phase: Phase, now: u64) -> i32 {
    let task = Running::now();
    if matches!(phase, Phase::Open) || Ioctl::now().is_dedupe() {
        return 0;
    }
    if matches!(phase, Phase::Closed) {
        return refuse(set, inode.address(), op, now);
    }
    let flight = if task.is_in_call() {
        Flight::Call
    } else {
        Flight::Kernel
    };
    take_off(set, inode.address(), flight, now);
    0
}
