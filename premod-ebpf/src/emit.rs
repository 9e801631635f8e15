//! Announces: builds a first-dirty record, puts it into the ring buffer, and tells the inode's word what became of it.
//!
//! The hook writes down what it can read cheaply, while the verifier knows its pointers' types ([`announce`]). The rest
//! is one function for all hooks ([`deliver`]), which gets numbers and is verified by itself.

use core::{ffi::c_void, ptr::read_volatile};

use aya_ebpf::helpers::{
    bpf_get_current_comm,
    generated::{
        bpf_get_current_cgroup_id, bpf_get_current_uid_gid, bpf_ktime_get_ns, bpf_ringbuf_output,
    },
};
use aya_log_ebpf::debug;
use premod_common::{
    event::{
        FLAG_PRE, FLAG_RANGE, FLAG_RETRY, FLAG_UNTRACKED, FirstDirtyRecord, MARK_SEVERAL_NAMES,
        NAME_SPACE, RecordKind,
    },
    generation::{self, Step, Word},
    inode::TrackedInode,
};

use crate::{
    atomic::compare_and_swap,
    cgroup,
    kernel::{Inode, Place, current_task},
    maps::{Count, EVENTS, count},
    path,
    scratch::{Scratch, release, take},
    touch::{ATTEMPTS, Outcome},
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

/// Announces what was decided for the inode. `entry` is its entry; null if it is not tracked.
#[inline(always)]
pub(crate) fn announce(
    inode: Inode,
    place: Place,
    change: Change,
    entry: *mut TrackedInode,
    outcome: Outcome,
) {
    let Some(scratch) = take() else {
        conclude(entry, outcome.generation(), outcome.flags().into(), 0);
        return;
    };
    // SAFETY: the slot is ours until it is released.
    unsafe {
        let record = &raw mut (*scratch).record;
        (*record).kind = RecordKind::FirstDirty as u16;
        (*record).marks = if inode.has_links() {
            MARK_SEVERAL_NAMES
        } else {
            0
        };
        (*record).op = change.op;
        (*record).generation = outcome.generation();
        (*record).inode_address = inode.address();
        (*record).inode = inode.number();
        (*record).inode_generation = inode.generation();
        (*record).device = inode.superblock().device();
        let mut flags = outcome.flags();
        let (offset, length) = match change.range {
            Some(range) => {
                flags |= FLAG_RANGE;
                range
            }
            None => (0, 0),
        };
        (*record).offset = offset;
        (*record).length = length;
        (*record).flags = flags | path::begin(scratch, inode, place);
        deliver(scratch, entry);
        release(scratch);
    }
}

/// Delivers the record that `scratch` holds, but for its path and what it says of the task.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn deliver(scratch: *mut Scratch, entry: *mut TrackedInode) -> u64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: the caller's slot. All pointers given to helpers lie inside of it, and the names after `record` bound the
    // size of the output.
    unsafe {
        let record = &raw mut (*scratch).record;
        let located = path::locate(scratch);
        ((*record).mono_ns, (*record).born) =
            if entry.is_null() || (*record).flags & FLAG_UNTRACKED != 0 {
                (bpf_ktime_get_ns(), 0)
            } else {
                // If another task has announced since, its time is as good: the change has not begun yet.
                (read_volatile(&raw const (*entry).announced), (*entry).born)
            };
        (*record).cgroup = bpf_get_current_cgroup_id();
        cgroup::mark(scratch);
        let task = current_task();
        (*record).pid = (task >> 32) as u32;
        (*record).tid = task as u32;
        let uid_gid = bpf_get_current_uid_gid();
        (*record).uid = uid_gid as u32;
        (*record).gid = (uid_gid >> 32) as u32;
        (*record).comm = bpf_get_current_comm().unwrap_or_default();
        let length = u64::from((*record).names_length).min(NAME_SPACE as u64);
        let delivered = located
            && bpf_ringbuf_output(
                (&raw const EVENTS).cast_mut().cast(),
                record.cast::<c_void>(),
                FirstDirtyRecord::SIZE as u64 + length,
                0,
            ) == 0;
        let (generation, flags) = ((*record).generation, (*record).flags);
        debug!(
            (),
            "generation {} of inode {}: op {}, flags {:x}, delivered {}",
            generation,
            (*record).inode,
            (*record).op,
            flags,
            delivered as u8
        );
        conclude(entry, generation, flags.into(), delivered.into())
    }
}

/// Counts the announcement, and tells the inode's word what became of it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conclude(
    entry: *mut TrackedInode,
    generation: u64,
    flags: u64,
    delivered: u64,
) -> u64 {
    let (flags, delivered) = (flags as u8, delivered != 0);
    let retry = flags & FLAG_RETRY != 0;
    // Neither the first, nor a repetition of it.
    if flags & (FLAG_PRE | FLAG_RETRY) == 0 {
        count(Count::Late);
    }
    if delivered {
        count(Count::Delivered);
        if retry {
            count(Count::Retried);
        }
    }
    if entry.is_null() || flags & FLAG_UNTRACKED != 0 {
        if !delivered {
            count(Count::Lost);
        }
        return 0;
    }
    for _ in 0..ATTEMPTS {
        // SAFETY: the pointer comes from the map.
        let word = Word(unsafe { read_volatile(&raw const (*entry).word) });
        let Step::Store(new) = generation::announced(word, generation, delivered) else {
            return 0;
        };
        // SAFETY: the pointer comes from the map; `word` is an aligned u64.
        if unsafe { compare_and_swap(&raw mut (*entry).word, word.0, new.0) } {
            // A generation is counted as lost once, however often its announcement fails.
            if !delivered && !retry {
                count(Count::Lost);
            }
            return 0;
        }
    }
    count(Count::Contended);
    0
}
