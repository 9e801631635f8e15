//! Keeping a modifier out: an errno, a stop, or death.

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
    maps::{HELD, REFUSED, count, settings},
    memory,
    running::Running,
    tell::tell,
};

/// `-ERESTARTNOINTR` of include/linux/errno.h, which never reaches user mode: with a signal pending, the
/// kernel repeats the system call.
const RESTART: i32 = -513;
const EAGAIN: u32 = 11;
const EBUSY: u32 = 16;
const SIGSTOP: u32 = 19;
const SIGKILL: u32 = 9;
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
pub(crate) fn refuse(inode: InodeAddress, op: Op, now: u64) -> i32 {
    let task = Running::now();
    let errno = if task.is_kernel_thread() {
        EAGAIN
    } else if settings().mode != Mode::Hold as u32 {
        settings().errno
    } else if task.must_run() {
        EBUSY
    } else if task.is_in_restartable_call() && interrupt::hold(task, inode, op, now) {
        return RESTART;
    } else if !hold(task, inode, op, 0, now) {
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
    count!(refused);
    let process = task.process();
    if REFUSED
        .insert(process, op as u32, u64::from(BPF_NOEXIST))
        .is_ok()
    {
        tell(inode, Happening::Refused, op, errno);
    }
    // The verifier wants to see that it is an errno.
    match errno {
        EAGAIN => -(EAGAIN as i32),
        EBUSY => -(EBUSY as i32),
        _ => settings().verdict,
    }
}

/// Keeps a store out that has begun to fault, if that can be. Whether it is kept out shows when the fault is over
/// ([`fault_is_over`]).
#[inline(always)]
pub(crate) fn refuse_store(inode: InodeAddress, now: u64) {
    let task = Running::now();
    let policy = settings().mmap;
    if policy == MmapPolicy::Report as u32 || task.is_kernel_thread() || task.must_run() {
        return;
    }
    if policy == MmapPolicy::Kill as u32 {
        kill(inode);
    } else {
        hold(task, inode, Op::Mmap, u64::MAX, now);
    }
}

/// The fault is over of a store that was to be kept out: from now on its page can be stored to, until the file is flushed
/// again. Tells of the store, if it comes.
///
/// Not when the fault begins: it can take so long that the file is frozen meanwhile, and what was told before that is
/// of no importance.
#[inline(always)]
pub(crate) fn fault_is_over(inode: InodeAddress) {
    let task = Running::now();
    if let Some(held) = HELD.get_ptr_mut(task.process()) {
        // SAFETY: the pointer comes from the map; no preconditions.
        unsafe {
            if (*held).writable == u64::MAX {
                (*held).writable = bpf_ktime_get_ns();
            }
        }
    }
    // Only now: a stop that is taken back from here on is seen (`crate::signals`).
    if can_store(task) {
        tell_of_store(inode);
    }
}

/// Whether somebody can store to the page that the running thread has made writable.
///
/// A store of its own comes after the fault, and the signal before it, unless somebody has taken that back. A store by
/// the kernel (`read` into the mapping, `process_vm_writev`) is part of the fault's caller, and happens. Others that
/// have the same memory need no fault. And whoever is traced gets the signal only if his tracer lets him.
#[inline(always)]
fn can_store(task: Running) -> bool {
    !task.is_in_fault_of_user()
        || !task.is_to_stop_or_die()
        || task.threads() > 1
        || memory::is_shared(task)
}

/// Counts a store that is not kept out, and tells of it.
#[inline(always)]
pub(crate) fn tell_of_store(inode: InodeAddress) {
    count!(touches);
    tell(inode, Happening::Stored, Op::Mmap, 0);
}

/// Stops the running process before it returns to user mode. `writable` is [`HeldProcess::writable`].
#[inline(always)]
fn hold(task: Running, inode: InodeAddress, op: Op, writable: u64, now: u64) -> bool {
    let process = task.process();
    let started = task.started();
    let tid = current_task() as u32;
    match HELD.get_ptr_mut(process) {
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
            if HELD.insert(process, held, 0).is_err() {
                count!(unnoted);
                return false;
            }
        }
    }
    // To this thread, not to the process: a signal that is pending for the process already would not keep
    // this thread from returning to user mode with the internal errno. It stops all threads anyway.
    // SAFETY: no preconditions.
    if unsafe { bpf_send_signal_thread(SIGSTOP) } != 0 {
        count!(unstopped);
        return false;
    }
    count!(held);
    tell(inode, Happening::Held, op, 0);
    true
}

#[inline(always)]
fn kill(inode: InodeAddress) {
    // SAFETY: no preconditions.
    if unsafe { bpf_send_signal_thread(SIGKILL) } != 0 {
        count!(unstopped);
        return;
    }
    // The fault of a process that is dying may be tried again, and it dies once.
    let process = Running::now().process();
    if REFUSED
        .insert(process | KILLED, Op::Mmap as u32, u64::from(BPF_NOEXIST))
        .is_ok()
    {
        count!(killed);
        tell(inode, Happening::Killed, Op::Mmap, 0);
    }
}
