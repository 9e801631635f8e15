//! Who else stops and continues the processes that premod holds.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    kernel::{current_process, load},
    maps::{HELD, settings},
};

const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
/// SIGTSTP, SIGTTIN, SIGTTOU.
const TERMINAL_STOPS: core::ops::RangeInclusive<i32> = 20..=22;
/// `SEND_SIG_PRIV` of include/linux/sched/signal.h: sent by the kernel, so by our own programs, too.
const BY_KERNEL: u64 = 1;

/// Tracepoint `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, …)`, 6.1 to
/// 7.x. A process that somebody else stops while it is held must stay stopped when it is let go.
#[btf_tracepoint(function = "signal_generate")]
fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    let signal: i32 = ctx.arg(0);
    let stops = signal == SIGSTOP || TERMINAL_STOPS.contains(&signal);
    if !stops && signal != SIGCONT {
        return 0;
    }
    let info: u64 = ctx.arg(1);
    let task: *const u8 = ctx.arg(2);
    // SAFETY: the offset is that of tgid in struct task_struct.
    let process: u32 = unsafe { load!(task, task_struct_tgid) };
    let sender = current_process();
    let ours = sender == settings().own_pid
        || (signal == SIGSTOP && info == BY_KERNEL && sender == process);
    if ours {
        return 0;
    }
    if let Some(held) = HELD.get_ptr_mut(process) {
        // SAFETY: the pointer comes from the map.
        unsafe { (*held).stopped_by_others = stops.into() };
    }
    0
}
