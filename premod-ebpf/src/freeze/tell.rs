//! Records for user space.

use aya_ebpf::helpers::{
    bpf_get_current_comm,
    generated::{bpf_get_current_uid_gid, bpf_ktime_get_ns},
};
use premod_common::{
    event::Op,
    guard::{GuardRecord, Happening, HeldProcess},
    inode::InodeAddress,
};

use crate::{
    kernel::current_task,
    set::{Set, count},
};

/// Tells what the running task does to a guarded inode.
#[inline(always)]
pub(crate) fn tell(set: Set, inode: InodeAddress, happening: Happening, op: Op, errno: u32) {
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
    send(set, &record);
}

/// Tells what another process may do from now on: store to a guarded inode, before which it had been stopped.
#[inline(always)]
pub(crate) fn tell_of(set: Set, process: u32, held: &HeldProcess) {
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
    send(set, &record);
}

/// What cannot be told is counted.
#[inline(always)]
fn send(set: Set, record: &GuardRecord) {
    let happenings = set.happenings();
    if !happenings.is_some_and(|ring| ring.output(record, 0).is_ok()) {
        count!(set, lost);
    }
}
