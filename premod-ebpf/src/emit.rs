//! Builds a first-dirty record and puts it into the ring buffer.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_comm,
    generated::{
        bpf_get_current_cgroup_id, bpf_get_current_uid_gid, bpf_probe_read_kernel_str,
        bpf_ringbuf_output,
    },
};
use aya_log_ebpf::debug;
use premod_common::event::{FLAG_RANGE, FirstDirtyRecord, NAME_SPACE, NAMES_MAX, RecordKind};

use crate::{
    kernel::{Inode, Place, current_task},
    maps::EVENTS,
    path::write_names,
    scratch::{release, take},
};

/// What a hook knows of the change it announces.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    /// [`premod_common::event::Op`] as a number.
    pub(crate) op: u8,
    /// Leaves no dirty page behind, perhaps.
    pub(crate) unpaged: bool,
    pub(crate) range: Option<(u64, u64)>,
}

/// An announcement in the making.
#[derive(Clone, Copy)]
pub(crate) struct Announce {
    pub(crate) inode: Inode,
    pub(crate) place: Place,
    pub(crate) change: Change,
    pub(crate) generation: u64,
    pub(crate) born: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub(crate) now: u64,
    pub(crate) flags: u8,
}

/// Puts the event into the ring buffer; false if there was no room for it.
#[inline(never)]
pub(crate) fn emit(announce: &Announce) -> bool {
    let Some(scratch) = take() else { return false };
    let Announce {
        inode,
        place,
        change,
        generation,
        born,
        now,
        mut flags,
    } = *announce;
    let superblock = inode.superblock();
    // SAFETY: the slot is ours until it is released. All pointers given to helpers lie inside of it, and
    // `names.len()` after `record` bounds the size of the output.
    unsafe {
        let record = &raw mut (*scratch).record;
        (*record).kind = RecordKind::FirstDirty as u32;
        (*record).mono_ns = now;
        flags |= write_names(scratch, inode, place);
        (*record).generation = generation;
        (*record).inode_address = inode.address();
        (*record).born = born;
        (*record).inode = inode.number();
        (*record).inode_generation = inode.generation();
        (*record).device = superblock.device();
        if let Some((offset, length)) = change.range {
            flags |= FLAG_RANGE;
            (*record).offset = offset;
            (*record).length = length;
        } else {
            (*record).offset = 0;
            (*record).length = 0;
        }
        (*record).directory = 0;
        (*record).cgroup = bpf_get_current_cgroup_id();
        let task = current_task();
        (*record).pid = (task >> 32) as u32;
        (*record).tid = task as u32;
        let uid_gid = bpf_get_current_uid_gid();
        (*record).uid = uid_gid as u32;
        (*record).gid = (uid_gid >> 32) as u32;
        (*record).comm = bpf_get_current_comm().unwrap_or_default();
        (*record).filesystem = [0; 16];
        bpf_probe_read_kernel_str(
            (&raw mut (*record).filesystem).cast(),
            16,
            superblock.type_name() as *const c_void,
        );
        (*record).op = change.op;
        (*record).flags = flags;
        let mut length = (*scratch).walk.length;
        if length > (NAMES_MAX + NAME_SPACE) as u64 {
            length = (NAMES_MAX + NAME_SPACE) as u64;
        }
        (*record).names_length = length as u16;
        let delivered = bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            record.cast(),
            FirstDirtyRecord::SIZE as u64 + length,
            0,
        ) == 0;
        release(scratch);
        debug!(
            (),
            "generation {} of inode {}: op {}, flags {:x}, delivered {}",
            generation,
            inode.number(),
            change.op,
            flags,
            delivered as u8
        );
        delivered
    }
}
