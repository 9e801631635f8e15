//! Whether an inode is guarded, and what follows from it.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use premod_common::{
    guard::{Phase, Switch},
    inode::InodeAddress,
};

use crate::{
    atomic::{add, increment},
    facts::fact,
    kernel::read_u32,
    maps::{GUARDS, SWITCH, TALLY, own},
};

/// `SIGNAL_GROUP_EXIT` of include/linux/sched/signal.h, the same since 2.6: the process is ending.
const SIGNAL_GROUP_EXIT: u32 = 0x4;

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

/// The freeze is over when premod is about to end, though its programs hang for a while: it takes the kernel up to a second to
/// take them off, and nobody is to be held meanwhile whom nobody would let go.
#[inline(always)]
fn premod_is_ending() -> bool {
    let signal = own().signal;
    signal != 0 && read_u32(signal + u64::from(fact!(signal_struct_flags))) & SIGNAL_GROUP_EXIT != 0
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
        let mut phase = switch.phase_at(now);
        if !matches!(phase, Phase::Open) && premod_is_ending() {
            phase = Phase::Open;
        }
        let verdict = act(phase, now);
        add(&raw mut (*tally).busy, MINUS_ONE);
        verdict
    }
}
