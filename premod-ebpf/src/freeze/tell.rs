//! Records for user space.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_comm,
    generated::{bpf_get_current_uid_gid, bpf_ktime_get_ns, bpf_ringbuf_output},
};
use premod_common::{
    event::Op,
    guard::{GuardRecord, Happening},
    inode::InodeAddress,
};

use crate::{
    kernel::current_task,
    maps::{HAPPENINGS, count},
};

/// Tells what the running task does to a guarded inode. What cannot be told is counted.
#[inline(always)]
pub(crate) fn tell(inode: InodeAddress, happening: Happening, op: Op, errno: u32) {
    let task = current_task();
    // SAFETY: no preconditions; the record lives on the stack for the call.
    let told = unsafe {
        let record = GuardRecord {
            mono_ns: bpf_ktime_get_ns(),
            inode,
            happening: happening as u32,
            op: op as u32,
            pid: (task >> 32) as u32,
            tid: task as u32,
            errno,
            uid: bpf_get_current_uid_gid() as u32,
            comm: bpf_get_current_comm().unwrap_or_default(),
        };
        bpf_ringbuf_output(
            (&raw const HAPPENINGS).cast_mut().cast::<c_void>(),
            (&raw const record).cast_mut().cast(),
            GuardRecord::SIZE as u64,
            0,
        ) == 0
    };
    if !told {
        count!(lost);
    }
}
