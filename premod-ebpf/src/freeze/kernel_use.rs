//! Files that the kernel is about to write to by itself, which then asks nobody: swap files, the files behind loop devices,
//! and those of its own servers.
//!
//! Whoever makes it do so is kept out like one who writes.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_probe_read_user, macros::lsm, programs::LsmContext};
use premod_common::event::Op;

use crate::{
    calls::modify,
    facts::fact,
    kernel::{File, Inode, O_ACCMODE, load, read, read_u32},
    running::Running,
};

/// ioctls of block devices that hand over a file by its descriptor, of linux/loop.h and linux/raid/md_u.h. The third has
/// it in a structure, where it comes first.
const LOOP_SET_FD: u32 = 0x4c00;
const LOOP_CHANGE_FD: u32 = 0x4c06;
const LOOP_CONFIGURE: u32 = 0x4c0a;
const SET_BITMAP_FILE: u32 = 0x4004_092b;

/// `S_IFMT` and `S_IFBLK` of the kernel's stable interface.
const S_IFMT: u16 = 0o170_000;
const S_IFBLK: u16 = 0o060_000;

/// `security_file_open(struct file *file)`, 6.1 to 7.x: the kernel opens files for itself, too: a swap file, the accounts of
/// processes, what LIO or nvmet serve when that is written to a file of theirs.
#[lsm(hook = "file_open")]
fn file_open(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(1);
    let file = File(ctx.arg(0));
    if verdict != 0 || file.is_read_only() || !Running::now().opens_for_the_kernel() {
        return verdict;
    }
    modify(file.inode(), Op::Write)
}

/// The running task hands a file over to a device, perhaps.
#[inline(always)]
pub(crate) fn hand_over(device: File, command: u32, argument: u64) -> i32 {
    let descriptor = match command {
        LOOP_SET_FD | LOOP_CHANGE_FD | SET_BITMAP_FILE => argument as u32,
        // Another thread can change it after we have looked. Then the device's first write is told.
        LOOP_CONFIGURE => read_user(argument),
        _ => return 0,
    };
    // SAFETY: i_mode is an umode_t.
    let mode: u16 = unsafe { load!(device.inode().0, inode_i_mode) };
    let file = Running::now().file(descriptor);
    if mode & S_IFMT != S_IFBLK || read_u32(file + u64::from(fact!(file_f_flags))) & O_ACCMODE == 0
    {
        return 0;
    }
    let inode = read(file + u64::from(fact!(file_f_inode)));
    modify(Inode(inode as *const u8), Op::Write)
}

/// A number in the memory of user space; 0 if it cannot be read without waiting.
#[inline(always)]
fn read_user(address: u64) -> u32 {
    let mut number = 0;
    // SAFETY: the helper checks the address, and writes as much as there is room.
    unsafe {
        bpf_probe_read_user(
            (&raw mut number).cast::<c_void>(),
            size_of::<u32>() as u32,
            address as *const c_void,
        );
    }
    number
}
