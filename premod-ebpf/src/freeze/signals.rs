//! Who else stops and continues the processes that premod holds.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use premod_common::guard::{HeldProcess, Phase};

use crate::{
    guard,
    kernel::{current_process, load},
    running::{SIGCONT, SIGSTOP, SIGTTOU},
    set::{Set, count, each},
    tell::tell_of,
};

/// `SEND_SIG_PRIV` of include/linux/sched/signal.h: sent by the kernel, so by our own programs, too.
const BY_KERNEL: u64 = 1;

/// Tracepoint `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, …)`, 6.1 to
/// 7.x. A process that somebody else stops by SIGSTOP while it is held must stay stopped when it is let go. What the
/// terminal sends may be ignored or handled, or be void in an orphaned group; and SIGCONT takes it back. It is noted,
/// to be sent once more after that.
#[btf_tracepoint(function = "signal_generate")]
fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    let number: i32 = ctx.arg(0);
    let signal = number as u8;
    if !(i32::from(SIGCONT)..=i32::from(SIGTTOU)).contains(&number) {
        return 0;
    }
    let info: u64 = ctx.arg(1);
    let task: *const u8 = ctx.arg(2);
    // SAFETY: the offset is that of tgid in struct task_struct.
    let process: u32 = unsafe { load!(task, task_struct_tgid) };
    let sender = current_process();
    // By our programs: to stop a process, or only to interrupt it.
    let by_itself = matches!(signal, SIGSTOP | SIGCONT) && info == BY_KERNEL && sender == process;
    if by_itself {
        return 0;
    }
    let mut sent = Sent {
        process,
        sender,
        signal,
    };
    each(&mut sent, is_sent);
    0
}

/// A signal that stops or continues a process.
struct Sent {
    process: u32,
    sender: u32,
    signal: u8,
}

/// Notes it for one freeze, if it holds the process.
unsafe extern "C" fn is_sent(place: u64, sent: *mut Sent) -> i64 {
    let set = Set::at(place as u32);
    // SAFETY: the loop passes what it was given.
    let (process, sender, signal) = unsafe { ((*sent).process, (*sent).sender, (*sent).signal) };
    let own = set.own();
    if sender == own.pid || sender == own.keeper {
        return 0;
    }
    if sender == process
        && signal != SIGCONT
        && let Some(stopped) = set.stopped_themselves()
    {
        // SAFETY: no preconditions.
        let _ = stopped.insert(process, unsafe { bpf_ktime_get_ns() }, 0);
    }
    let by_others = |by_others| match signal {
        SIGCONT => 0,
        _ if by_others == SIGSTOP => SIGSTOP,
        stop => stop,
    };
    if let Some(seized) = set.seized().and_then(|all| all.get_ptr_mut(process)) {
        // SAFETY: the pointer comes from the map.
        unsafe { (*seized).stopped_by_others = by_others((*seized).stopped_by_others) };
    }
    if let Some(held) = set.held().and_then(|all| all.get_ptr_mut(process)) {
        // SAFETY: the pointer comes from the map.
        unsafe {
            (*held).stopped_by_others = by_others((*held).stopped_by_others);
            if signal == SIGCONT {
                continued(set, process, &*held);
            }
        }
    }
    0
}

/// Somebody else continues a held process. A system call is refused once more; a store that was stopped in its fault can
/// happen now, if the page is not protected again.
#[inline(always)]
fn continued(set: Set, process: u32, held: &HeldProcess) {
    if held.writable == 0 || held.writable < set.protected() {
        return;
    }
    guard::enter(set, |phase, _| {
        if matches!(phase, Phase::Closed) {
            count!(set, touches);
            tell_of(set, process, held);
        }
        0
    });
}
