//! Whether an inode is guarded, and what follows from it.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use premod_common::{
    guard::{Phase, Switch},
    inode::InodeAddress,
};

use crate::{
    atomic::{add, increment},
    maps::{GUARDS, SWITCH, TALLY},
};

/// What takes one from a counter.
const MINUS_ONE: u64 = u64::MAX;

/// If the inode is guarded, does what has to be done in the present phase, at the present time, and returns
/// the verdict; else everybody may pass.
#[inline(always)]
pub(crate) fn at(inode: InodeAddress, act: impl FnOnce(Phase, u64) -> i32) -> i32 {
    // SAFETY: only whether there is an entry matters.
    if unsafe { GUARDS.get(inode) }.is_none() {
        return 0;
    }
    enter(act)
}

/// As [`at`], for an inode that is known to be guarded.
///
/// User space writes the switch and then waits until nobody is busy: whoever comes later has counted itself
/// before it looks at the switch, so it sees the new one. On x86 the increment is a full barrier.
#[inline(always)]
pub(crate) fn enter(act: impl FnOnce(Phase, u64) -> i32) -> i32 {
    let (Some(tally), Some(switch)) = (TALLY.get_ptr_mut(0), SWITCH.get_ptr(0)) else {
        return 0;
    };
    // SAFETY: the pointers come from maps; the fields are aligned u64.
    unsafe {
        increment(&raw mut (*tally).busy);
        let switch = Switch {
            phase: read_volatile(&raw const (*switch).phase),
            deadline: read_volatile(&raw const (*switch).deadline),
        };
        let now = bpf_ktime_get_ns();
        let verdict = act(switch.phase_at(now), now);
        add(&raw mut (*tally).busy, MINUS_ONE);
        verdict
    }
}
