//! Who else stops and continues the processes that premod holds.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use premod_common::guard::{HeldProcess, Phase};

use crate::{
    guard,
    kernel::{current_process, load},
    maps::{HELD, PROTECTED, SEIZED, STOPPED_THEMSELVES, count, own, settings},
    running::{SIGCONT, SIGSTOP, SIGTTOU},
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
    if by_itself || sender == settings().own_pid || sender == own().keeper {
        return 0;
    }
    if sender == process && signal != SIGCONT {
        // SAFETY: no preconditions.
        let _ = STOPPED_THEMSELVES.insert(process, unsafe { bpf_ktime_get_ns() }, 0);
    }
    if let Some(seized) = SEIZED.get_ptr_mut(process) {
        // SAFETY: the pointer comes from the map.
        unsafe {
            if signal == SIGCONT {
                (*seized).stopped_by_others = 0;
            } else if (*seized).stopped_by_others != SIGSTOP {
                (*seized).stopped_by_others = signal;
            }
        }
    }
    let Some(held) = HELD.get_ptr_mut(process) else {
        return 0;
    };
    // SAFETY: the pointer comes from the map.
    unsafe {
        if signal == SIGCONT {
            (*held).stopped_by_others = 0;
            continued(process, &*held);
        } else if (*held).stopped_by_others != SIGSTOP {
            (*held).stopped_by_others = signal;
        }
    }
    0
}

/// Somebody else continues a held process. A system call is refused once more; a store that was stopped in its fault can
/// happen now, if the page is not protected again.
#[inline(always)]
fn continued(process: u32, held: &HeldProcess) {
    let protected = PROTECTED.get(0).copied().unwrap_or(0);
    if held.writable == 0 || held.writable < protected {
        return;
    }
    guard::enter(|phase, _| {
        if matches!(phase, Phase::Closed) {
            count!(touches);
            tell_of(process, held);
        }
        0
    });
}
