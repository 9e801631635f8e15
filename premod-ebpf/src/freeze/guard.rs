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
    set::Set,
};

/// `SIGNAL_GROUP_EXIT` of include/linux/sched/signal.h, the same since 2.6: the process is ending.
const SIGNAL_GROUP_EXIT: u32 = 0x4;

/// What takes one from a counter.
const MINUS_ONE: u64 = u64::MAX;

/// If the inode is guarded, does what has to be done in the present phase, at the present time, and returns
/// the verdict; else everybody may pass.
#[inline(always)]
pub(crate) fn at(inode: InodeAddress, act: impl FnOnce(Set, Phase, u64) -> i32) -> i32 {
    let Some(set) = Set::of(inode) else {
        return 0;
    };
    enter(set, |phase, now| act(set, phase, now))
}

/// The freeze is over when its premod is about to end, though the programs hang for a while, or longer for other freezes:
/// nobody is to be held meanwhile whom nobody would let go. When it has ended, [`crate::command`] opens the switch.
#[inline(always)]
fn premod_is_ending(set: Set) -> bool {
    let signal = set.own().signal;
    signal != 0 && read_u32(signal + u64::from(fact!(signal_struct_flags))) & SIGNAL_GROUP_EXIT != 0
}

/// As [`at`], for a freeze that is known.
///
/// User space writes the switch and then waits until nobody is busy: whoever comes later has counted itself
/// before it looks at the switch, so it sees the new one. On x86 the increment is a full barrier.
#[inline(always)]
pub(crate) fn enter(set: Set, act: impl FnOnce(Phase, u64) -> i32) -> i32 {
    let (Some(tallies), Some(switches)) = (set.tally(), set.switch()) else {
        return 0;
    };
    let (Some(tally), Some(switch)) = (tallies.get_ptr_mut(0), switches.get_ptr(0)) else {
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
        if !matches!(phase, Phase::Open) && premod_is_ending(set) {
            phase = Phase::Open;
        }
        let verdict = act(phase, now);
        add(&raw mut (*tally).busy, MINUS_ONE);
        verdict
    }
}
