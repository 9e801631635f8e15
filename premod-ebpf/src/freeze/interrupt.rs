//! The hold that nobody sees, as far as it is the kernel side's: a thread is kept in its system call until premod's keeper has
//! seized its process.
//!
//! It waits here for a moment. If it is not seized by then, it is interrupted without a signal, so that it leaves the
//! kernel, others get the CPU, and it comes again. SIGSTOP, and SIGCONT that takes it back, leave nothing but the mark that
//! something is to be looked at: the kernel finds nothing, and repeats the system call. Nobody sees either.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{
        bpf_get_current_comm,
        generated::{bpf_ktime_get_ns, bpf_loop, bpf_send_signal_thread},
    },
};
use premod_common::{
    event::Op,
    guard::{Happening, HeldProcess, Waiting},
    inode::InodeAddress,
};

use crate::{
    kernel::current_task,
    running::{Running, SIGCONT, SIGSTOP},
    set::{Set, count},
    tell::tell,
};

/// How often a thread is kept waiting. Whoever is not seized by then is stopped by SIGSTOP: each time may be a record of an
/// audit, and the keeper may be dead.
const ROUNDS: i32 = 50;
/// After how many times the keeper is told again: the first time there may have been no room.
const TELL_AGAIN: u16 = 16;
/// How long it waits the first time, and at most, in nanoseconds: a quarter of a second in all. Where the kernel does not
/// preempt tasks that run in it, nobody else gets this CPU meanwhile.
const WAIT: u64 = 1_000_000;
const WAIT_MAX: u64 = 5_000_000;
/// How long whoever would see that it is interrupted waits, and then is stopped: longer than the keeper needs as a rule.
const WAIT_UNSEEN: u64 = 50_000_000;
/// More steps than fit into that time.
const STEPS: u32 = 1 << 20;

/// Keeps the running thread in its system call; whether its hook may have it repeated.
#[inline(always)]
pub(crate) fn hold(set: Set, task: Running, inode: InodeAddress, op: Op, now: u64) -> bool {
    let own = set.own();
    if own.interrupt == 0 || own.keeper == 0 {
        return false;
    }
    let Some(rounds) = note(set, task, inode, op, now) else {
        return false;
    };
    if i32::from(rounds) >= ROUNDS * task.threads() {
        return false;
    }
    if rounds == 0 {
        count!(set, held);
        tell(set, inode, Happening::Held, op, 0);
    }
    if rounds % TELL_AGAIN == 0 {
        ask(set, task);
    }
    let patience = if task.handles_sigcont() {
        WAIT_UNSEEN
    } else {
        (WAIT * (u64::from(rounds) + 1)).min(WAIT_MAX)
    };
    wait(own.interrupt, now + patience);
    is_interrupted(own.interrupt) || (interrupt(set, task) && is_interrupted(own.interrupt))
}

/// Notes a process that waits; how often it has before.
#[inline(always)]
fn note(set: Set, task: Running, inode: InodeAddress, op: Op, now: u64) -> Option<u16> {
    let process = task.process();
    let started = task.started();
    let all_seized = set.seized()?;
    if let Some(seized) = all_seized.get_ptr_mut(process) {
        // SAFETY: the pointer comes from the map. That threads may count each other's rounds wrong does not matter.
        unsafe {
            if (*seized).started == started {
                let rounds = (*seized).rounds;
                (*seized).rounds = rounds.saturating_add(1);
                return Some(rounds);
            }
        }
    }
    let seized = HeldProcess {
        started,
        since: now,
        inode,
        writable: 0,
        tid: current_task() as u32,
        op: op as u8,
        stopped_by_others: task.being_stopped_by(),
        rounds: 1,
        comm: bpf_get_current_comm().unwrap_or_default(),
    };
    if all_seized.insert(process, seized, 0).is_err() {
        count!(set, unnoted);
        return None;
    }
    Some(0)
}

/// Tells the keeper.
#[inline(always)]
fn ask(set: Set, task: Running) {
    let waiting = Waiting {
        started: task.started(),
        pid: task.process(),
        sharer: if task.may_share() {
            current_task() as u32
        } else {
            0
        },
    };
    if let Some(ring) = set.waiting() {
        // If there is no room, it is told again.
        let _ = ring.output(waiting, 0);
    }
}

/// How long to wait, and for what.
struct Wait {
    until: u64,
    interrupt: u64,
}

/// Waits until the running thread is interrupted, but not for long.
#[inline(always)]
fn wait(interrupt: u64, until: u64) {
    let mut wait = Wait { until, interrupt };
    // SAFETY: `step` has the signature that bpf_loop calls, and `wait` outlives the loop.
    unsafe { bpf_loop(STEPS, step as *mut c_void, (&raw mut wait).cast(), 0) };
}

/// One step: 1 ends the wait.
unsafe extern "C" fn step(_index: u64, wait: *mut Wait) -> i64 {
    // SAFETY: the loop passes what it was given.
    let over = unsafe {
        Running::now().flags() & (*wait).interrupt != 0 || bpf_ktime_get_ns() >= (*wait).until
    };
    over.into()
}

/// Out of line, so that it looks each time.
#[inline(never)]
fn is_interrupted(interrupt: u64) -> bool {
    Running::now().flags() & interrupt != 0
}

/// Interrupts the running thread; whether that can be done without anybody seeing it.
#[inline(always)]
fn interrupt(set: Set, task: Running) -> bool {
    // Whoever stops it interrupts it, too, and must not be undone.
    if task.being_stopped_by() != 0 {
        return true;
    }
    if task.handles_sigcont() {
        return false;
    }
    if !send_and_take_back() {
        // Like anybody who was stopped it has to be continued.
        let stopped = HeldProcess {
            started: task.started(),
            // SAFETY: no preconditions.
            since: unsafe { bpf_ktime_get_ns() },
            tid: current_task() as u32,
            comm: bpf_get_current_comm().unwrap_or_default(),
            ..HeldProcess::default()
        };
        if let Some(held) = set.held() {
            let _ = held.insert(task.process(), stopped, u64::from(BPF_NOEXIST));
        }
    }
    true
}

/// Sends SIGSTOP to the running thread and takes it back; whether it is gone.
#[inline(always)]
pub(crate) fn send_and_take_back() -> bool {
    // SAFETY: no preconditions.
    if unsafe { bpf_send_signal_thread(SIGSTOP.into()) } != 0 {
        return true;
    }
    let (_, by_others) = Running::now().sigstop_is_pending();
    if by_others {
        // It came just now, and stops the process: SIGCONT would undo it. Whoever undoes it undoes ours, too.
        return true;
    }
    // SAFETY: no preconditions.
    let failed = unsafe { bpf_send_signal_thread(SIGCONT.into()) } != 0;
    let (pending, _) = Running::now().sigstop_is_pending();
    !failed && !pending
}
