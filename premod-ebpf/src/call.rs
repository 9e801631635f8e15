//! The system call that the running task is in the middle of, as its user mode's registers tell: they are the task's
//! own, so that nobody else can have them forgotten, and they stay as they are until the call ends.

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};

use crate::{facts::fact, kernel::load};

/// `ENOSYS`, which the entry of a system call on x86 puts into the place of its result, where it stays until
/// the call has one.
const ENOSYS: i64 = 38;
/// `ioctl`: in calls of 64 bits, of 32 bits, and of 32 bits in the registers of 64 (x32). The first and the last have
/// the command in `si`, the other one in `cx`. Numbers of the kernel's stable interface, as all in here.
const IOCTL: u64 = 16;
const IOCTL_OF_32_BITS: u64 = 54;
const IOCTL_OF_X32: u64 = 0x4000_0000 | 514;

/// `FICLONE`, `_IOW(0x94, 9, int)`.
const FICLONE: u64 = 0x4004_9409;
/// `FICLONERANGE`, `_IOW(0x94, 13, struct file_clone_range)`.
const FICLONERANGE: u64 = 0x4020_940d;
/// `FIDEDUPERANGE`, `_IOWR(0x94, 54, struct file_dedupe_range)`.
const FIDEDUPERANGE: u64 = 0xc018_9436;
/// `BTRFS_IOC_DEFRAG`, `_IOW(0x94, 2, struct btrfs_ioctl_vol_args)`.
const BTRFS_IOC_DEFRAG: u64 = 0x5000_9402;
/// `BTRFS_IOC_DEFRAG_RANGE`, `_IOW(0x94, 16, struct btrfs_ioctl_defrag_range_args)`.
const BTRFS_IOC_DEFRAG_RANGE: u64 = 0x4030_9410;

/// An ioctl's command (32 bits), or one of the two below.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ioctl(u64);

impl Ioctl {
    /// The task is in no ioctl.
    const NONE: Self = Self(1 << 32);
    /// The loader does not know this machine's registers.
    const UNKNOWN: Self = Self(1 << 33);

    /// The one that the running task is in the middle of.
    #[inline(always)]
    pub(crate) fn now() -> Self {
        Self(current_ioctl())
    }

    /// In some ioctl, or nobody knows.
    #[inline(always)]
    pub(crate) fn is_any(self) -> bool {
        self != Self::NONE
    }

    /// Makes a file share another one's blocks, or finds out whether it could.
    #[inline(always)]
    pub(crate) fn is_remap(self) -> bool {
        matches!(self.0, FICLONE | FICLONERANGE | FIDEDUPERANGE)
    }

    /// Replaces a file's blocks by equal ones of another file.
    #[inline(always)]
    pub(crate) fn is_dedupe(self) -> bool {
        self.0 == FIDEDUPERANGE
    }

    /// Moves a file of btrfs to other blocks.
    #[inline(always)]
    pub(crate) fn is_defragmentation(self) -> bool {
        matches!(self.0, BTRFS_IOC_DEFRAG | BTRFS_IOC_DEFRAG_RANGE)
    }
}

/// Verified by itself, once in a program.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn current_ioctl() -> u64 {
    if fact!(pt_regs_orig_ax) == 0 {
        return Ioctl::UNKNOWN.0;
    }
    // SAFETY: no preconditions.
    let registers = registers(unsafe { bpf_get_current_task_btf() }.cast());
    let command = match call(registers) {
        Some(IOCTL | IOCTL_OF_X32) => {
            // SAFETY: the offset is that of si in struct pt_regs.
            unsafe { load!(registers, pt_regs_si: u64) }
        }
        Some(IOCTL_OF_32_BITS) => {
            // SAFETY: the offset is that of cx in struct pt_regs.
            unsafe { load!(registers, pt_regs_cx: u64) }
        }
        _ => return Ioctl::NONE.0,
    };
    // The kernel takes 32 bits of it, too.
    command & 0xffff_ffff
}

/// `struct pt_regs` of a `struct task_struct`: its user mode, as it was left.
#[inline(always)]
pub(crate) fn registers(task: *const u8) -> *const u8 {
    // SAFETY: the helper takes a task.
    unsafe { bpf_task_pt_regs(task.cast_mut().cast()) as *const u8 }
}

/// The number of the system call that a task with these registers is in the middle of. None for the kernel's threads,
/// for workers of `io_uring`, and for work that a task does for `io_uring` on its way back to user mode.
#[inline(always)]
pub(crate) fn call(registers: *const u8) -> Option<u64> {
    // SAFETY: the offsets are those of ax and orig_ax in struct pt_regs.
    unsafe {
        let result: i64 = load!(registers, pt_regs_ax);
        // The kernel goes by 32 bits of the number, and keeps all that it was given.
        (result == -ENOSYS).then(|| load!(registers, pt_regs_orig_ax: u64) & 0xffff_ffff)
    }
}
