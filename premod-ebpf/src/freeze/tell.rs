//! Records for user space.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_comm,
    generated::{bpf_get_current_uid_gid, bpf_ktime_get_ns, bpf_ringbuf_output},
};
use premod_common::{
    event::Op,
    guard::{GuardRecord, Happening, HeldProcess},
    inode::InodeAddress,
};

use crate::{
    kernel::current_task,
    maps::{HAPPENINGS, count},
};

/// Tells what the running task does to a guarded inode.
#[inline(always)]
pub(crate) fn tell(inode: InodeAddress, happening: Happening, op: Op, errno: u32) {
    let task = current_task();
    // SAFETY: no preconditions.
    let record = unsafe {
        GuardRecord {
            mono_ns: bpf_ktime_get_ns(),
            inode,
            happening: happening as u32,
            op: op as u32,
            pid: (task >> 32) as u32,
            tid: task as u32,
            errno,
            uid: bpf_get_current_uid_gid() as u32,
            comm: bpf_get_current_comm().unwrap_or_default(),
        }
    };
    send(&record);
}

/// Tells what another process may do from now on: store to a guarded inode, before which it had been stopped.
#[inline(always)]
pub(crate) fn tell_of(process: u32, held: &HeldProcess) {
    // SAFETY: no preconditions.
    let record = unsafe {
        GuardRecord {
            mono_ns: bpf_ktime_get_ns(),
            inode: held.inode,
            happening: Happening::Stored as u32,
            op: Op::Mmap as u32,
            pid: process,
            tid: held.tid,
            errno: 0,
            uid: bpf_get_current_uid_gid() as u32,
            comm: held.comm,
        }
    };
    send(&record);
}

/// What cannot be told is counted.
#[inline(always)]
fn send(record: &GuardRecord) {
    // SAFETY: the record lives through the call.
    let told = unsafe {
        bpf_ringbuf_output(
            (&raw const HAPPENINGS).cast_mut().cast::<c_void>(),
            (&raw const *record).cast_mut().cast(),
            GuardRecord::SIZE as u64,
            0,
        ) == 0
    };
    if !told {
        count!(lost);
    }
}
