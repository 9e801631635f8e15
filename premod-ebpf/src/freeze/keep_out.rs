//! Keeping a modifier out: an errno, a stop, or death.

use core::arch::asm;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{
        bpf_get_current_comm,
        generated::{bpf_ktime_get_ns, bpf_send_signal, bpf_send_signal_thread},
    },
};
use premod_common::{
    event::Op,
    guard::{Happening, HeldProcess, MmapPolicy, Mode},
    inode::InodeAddress,
};

use crate::{
    interrupt,
    kernel::current_task,
    memory,
    running::Running,
    set::{Set, count},
    tell::tell,
};

/// `-ERESTARTNOINTR` of include/linux/errno.h, which never reaches user mode: with a signal pending, the
/// kernel repeats the system call.
const RESTART: i32 = -513;
const EAGAIN: u32 = 11;
const EBUSY: u32 = 16;
const SIGSTOP: u32 = 19;
const SIGKILL: u32 = 9;
/// `MAX_ERRNO` of include/linux/err.h.
const ERRNO_MAX: u32 = 4095;
/// Tells a process that was killed from one that was refused; process ids have 22 bits.
const KILLED: u32 = 1 << 31;

/// Keeps a modifier out that asks before it modifies; returns what its hook has to answer.
///
/// | who | hold | deny |
/// | --- | --- | --- |
/// | a thread in a system call | seized ([`crate::interrupt`]), else stopped; the call is repeated | the errno |
/// | a request of `io_uring` | its process is stopped; EAGAIN | the errno |
/// | a thread of the kernel | EAGAIN, which nfsd's clients take for "later" | EAGAIN |
/// | init, premod, CMD and its children | EBUSY | the errno |
#[inline(always)]
pub(crate) fn refuse(set: Set, inode: InodeAddress, op: Op, now: u64) -> i32 {
    let task = Running::now();
    let own = set.own();
    let errno = if task.is_kernel_thread() {
        EAGAIN
    } else if own.mode != Mode::Hold as u32 {
        own.errno
    } else if task.must_run(set) {
        EBUSY
    } else if task.is_in_restartable_call() && interrupt::hold(set, task, inode, op, now) {
        return RESTART;
    } else if !hold(set, task, inode, op, 0, now) {
        EBUSY
    } else if task.is_in_restartable_call() {
        return RESTART;
    } else {
        // A worker of `io_uring` takes its signal when it is done with the request, and whoever waits for that may
        // have submitted the next one by then. So the process gets one, too; SIGCONT takes back what is pending.
        // SAFETY: no preconditions.
        unsafe { bpf_send_signal(SIGSTOP) };
        return -(EAGAIN as i32);
    };
    count!(set, refused);
    if is_first(set, task.process(), op) {
        tell(set, inode, Happening::Refused, op, errno);
    }
    // The verifier wants to see that it is an errno, or none.
    negative(errno & ERRNO_MAX)
}

/// A number negated. Before Linux 6.17 the verifier forgets what it knows of a number that a program negates (`BPF_NEG`), but
/// not of one that it subtracts.
#[inline(always)]
fn negative(number: u32) -> i32 {
    let negative: u32;
    // SAFETY: registers only.
    unsafe {
        asm!(
            "{negative} = 0",
            "{negative} -= {number}",
            negative = out(wreg) negative,
            number = in(wreg) number,
        );
    }
    negative.cast_signed()
}

/// Whether this is told of the process for the first time.
#[inline(always)]
fn is_first(set: Set, process: u32, op: Op) -> bool {
    let refused = set.refused();
    refused.is_some_and(|all| (all.insert(process, op as u32, u64::from(BPF_NOEXIST))).is_ok())
}

/// Keeps a store out that has begun to fault, if that can be. Whether it is kept out shows when the fault is over
/// ([`fault_is_over`]).
#[inline(always)]
pub(crate) fn refuse_store(set: Set, inode: InodeAddress, now: u64) {
    let task = Running::now();
    let policy = set.own().mmap;
    if policy == MmapPolicy::Report as u32 || task.is_kernel_thread() || task.must_run(set) {
        return;
    }
    if policy == MmapPolicy::Kill as u32 {
        kill(set, inode);
    } else {
        hold(set, task, inode, Op::Mmap, u64::MAX, now);
    }
}

/// The fault is over of a store that was to be kept out: from now on its page can be stored to, until the file is flushed
/// again. Tells of the store, if it comes.
///
/// Not when the fault begins: it can take so long that the file is frozen meanwhile, and what was told before that is
/// of no importance.
#[inline(always)]
pub(crate) fn fault_is_over(set: Set, inode: InodeAddress) {
    let task = Running::now();
    if let Some(held) = set.held().and_then(|held| held.get_ptr_mut(task.process())) {
        // SAFETY: the pointer comes from the map; no preconditions.
        unsafe {
            if (*held).writable == u64::MAX {
                (*held).writable = bpf_ktime_get_ns();
            }
        }
    }
    // Only now: a stop that is taken back from here on is seen (`crate::signals`).
    if can_store(set, task) {
        tell_of_store(set, inode);
    }
}

/// Whether somebody can store to the page that the running thread has made writable.
///
/// A store of its own comes after the fault, and the signal before it, unless somebody has taken that back. A store by
/// the kernel (`read` into the mapping, `process_vm_writev`) is part of the fault's caller, and happens. Others that
/// have the same memory need no fault. And whoever is traced gets the signal only if his tracer lets him.
#[inline(always)]
fn can_store(set: Set, task: Running) -> bool {
    !task.is_in_fault_of_user()
        || !task.is_to_stop_or_die(set)
        || task.threads() > 1
        || memory::is_shared(set, task)
}

/// Counts a store that is not kept out, and tells of it.
#[inline(always)]
pub(crate) fn tell_of_store(set: Set, inode: InodeAddress) {
    count!(set, touches);
    tell(set, inode, Happening::Stored, Op::Mmap, 0);
}

/// Stops the running process before it returns to user mode. `writable` is [`HeldProcess::writable`].
#[inline(always)]
fn hold(set: Set, task: Running, inode: InodeAddress, op: Op, writable: u64, now: u64) -> bool {
    let Some(all_held) = set.held() else {
        return false;
    };
    let process = task.process();
    let started = task.started();
    let tid = current_task() as u32;
    match all_held.get_ptr_mut(process) {
        // SAFETY: the pointer comes from the map.
        Some(held) if unsafe { (*held).started } == started => {
            // Somebody has continued it, or another thread was held before.
            if writable != 0 {
                // SAFETY: as above.
                unsafe {
                    (*held).inode = inode;
                    (*held).tid = tid;
                    (*held).op = op as u8;
                    (*held).writable = writable;
                }
            }
        }
        // A note of another process with this number, which has died while it was held, is void.
        _ => {
            let held = HeldProcess {
                started,
                since: now,
                inode,
                writable,
                tid,
                op: op as u8,
                stopped_by_others: task.being_stopped_by(),
                rounds: 0,
                comm: bpf_get_current_comm().unwrap_or_default(),
            };
            // Another thread of the process may have been faster, and notes the same.
            if all_held.insert(process, held, 0).is_err() {
                count!(set, unnoted);
                return false;
            }
        }
    }
    // To this thread, not to the process: a signal that is pending for the process already would not keep
    // this thread from returning to user mode with the internal errno. It stops all threads anyway.
    // SAFETY: no preconditions.
    if unsafe { bpf_send_signal_thread(SIGSTOP) } != 0 {
        count!(set, unstopped);
        return false;
    }
    count!(set, held);
    tell(set, inode, Happening::Held, op, 0);
    true
}

#[inline(always)]
fn kill(set: Set, inode: InodeAddress) {
    // SAFETY: no preconditions.
    if unsafe { bpf_send_signal_thread(SIGKILL) } != 0 {
        count!(set, unstopped);
        return;
    }
    // The fault of a process that is dying may be tried again, and it dies once.
    let process = Running::now().process();
    if is_first(set, process | KILLED, Op::Mmap) {
        count!(set, killed);
        tell(set, inode, Happening::Killed, Op::Mmap, 0);
    }
}
