//! Modifiers in flight: they have passed their check, and have not modified yet, or not all.

use aya_ebpf::{
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};
use premod_common::{
    guard::{Flight, InFlight, Phase},
    inode::InodeAddress,
};

use crate::{
    guard,
    keep_out::fault_is_over,
    kernel::current_task,
    maps::{AWAITED, FAULTS, IN_FLIGHT, kind::InFlights},
    set::{Set, count},
};

/// Notes that the running thread may modify the inode from now on; whether its end will be seen.
#[inline(always)]
pub(crate) fn take_off(set: Set, inode: InodeAddress, flight: Flight, now: u64) -> bool {
    let task = current_task();
    // A fault within a system call that is noted already: the call lasts longer.
    if matches!(flight, Flight::Fault) && is_in_flight(set, Flight::Call) {
        return true;
    }
    let modifier = InFlight {
        inode,
        since: now,
        flight: flight as u32,
        pid: (task >> 32) as u32,
    };
    let noted = (set.in_flight())
        .is_some_and(|in_flight| in_flight.insert(task as u32, modifier, 0).is_ok())
        && (!matches!(flight, Flight::Fault) || FAULTS.insert(task as u32, set.place(), 0).is_ok());
    if !noted {
        count!(set, unnoted);
    }
    noted
}

/// Whether the running thread is noted for such a flight.
#[inline(always)]
pub(crate) fn is_in_flight(set: Set, flight: Flight) -> bool {
    let thread = current_task() as u32;
    // SAFETY: a shared reference into a map value that only this thread changes.
    let modifier = (set.in_flight()).and_then(|in_flight| unsafe { in_flight.get(thread) });
    modifier.is_some_and(|modifier| modifier.flight == flight as u32)
}

/// Ends such a flight of the running thread; which inode it was about.
#[inline(always)]
fn land(in_flight: &InFlights, flight: Flight) -> Option<InodeAddress> {
    let thread = current_task() as u32;
    // SAFETY: a shared reference into a map value that only this thread changes.
    let modifier = unsafe { in_flight.get(thread) }?;
    if modifier.flight != flight as u32 {
        return None;
    }
    let inode = modifier.inode;
    let _ = in_flight.remove(thread);
    Some(inode)
}

/// Tracepoint `sys_exit(struct pt_regs *regs, long ret)`, 6.1 to 7.x: a system call has ended, whatever it
/// modified is in the page cache, or on its way as direct I/O. Attached for each freeze by itself, until its files are frozen.
#[btf_tracepoint(function = "sys_exit")]
fn sys_exit(_ctx: BtfTracePointContext) -> i32 {
    land(&IN_FLIGHT, Flight::Call);
    if let Some(landed) = AWAITED.get_ptr_mut(current_task() as u32) {
        // SAFETY: the pointer comes from the map.
        unsafe { landed.write_volatile(1) };
    }
    0
}

#[inline(always)]
fn fault_ends() {
    let thread = current_task() as u32;
    // SAFETY: a copy of a number that only this thread changes.
    let Some(place) = unsafe { FAULTS.get(thread) }.copied() else {
        return;
    };
    let _ = FAULTS.remove(thread);
    let set = Set::at(place);
    let Some(inode) = (set.in_flight()).and_then(|in_flight| land(in_flight, Flight::Fault)) else {
        return;
    };
    guard::enter(set, |phase, _| {
        if matches!(phase, Phase::Closed) {
            fault_is_over(set, inode);
        }
        0
    });
}

/// The end of `do_page_mkwrite`, 6.1 to 7.x: the page is dirty, and locked until it can be stored to, so that
/// a flush from now on either waits for it, or makes the next store fault again.
#[fexit(function = "do_page_mkwrite")]
fn mkwrite_ends(_ctx: FExitContext) -> i32 {
    fault_ends();
    0
}

/// The same once more, in case that the kernel skips the first ([`crate::seen`]).
#[fexit(function = "do_page_mkwrite")]
fn mkwrite_ends_again(_ctx: FExitContext) -> i32 {
    fault_ends();
    0
}
