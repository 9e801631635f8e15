//! Whether an event is caused in one of the cgroups that are asked for, or below one.
//!
//! Decided while the task is there: when the event is read, it may have ended, and its cgroup may have been removed.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use premod_common::event::MARK_IN_CGROUP;

use crate::{
    maps::{CGROUPS, setting},
    scratch::{Scratch, walk_up},
};

/// How deep cgroups are looked for: deeper than anybody nests them.
const LEVELS: u32 = 512;

/// Marks the record of the running task's change, if cgroups are asked for and it is in one of them.
///
/// # Safety
/// `scratch` is a taken slot.
#[inline(always)]
pub(crate) unsafe fn mark(scratch: *mut Scratch) {
    if setting!(cgroups) != 0 {
        // SAFETY: the caller vouches for `scratch`.
        unsafe { walk_up(scratch, LEVELS, step) };
    }
}

/// One level of the way from the root of all cgroups, which has level 0, to the task's own. Returns 1 to stop.
unsafe extern "C" fn step(level: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: no preconditions; beyond the task's own level the answer is 0.
    let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
    if id == 0 {
        return 1;
    }
    // SAFETY: a shared reference into a map value, which is not looked at.
    if unsafe { CGROUPS.get(id) }.is_none() {
        return 0;
    }
    // SAFETY: `walk_up` passes on the address of a variable that holds the slot, which is taken for as long as the loop
    // runs.
    unsafe { (**context).record.marks |= MARK_IN_CGROUP };
    1
}
