//! Clocks that count instructions: in a machine with `--icount` a nanosecond is an instruction.

use std::{fs, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// What an operation's cost is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// All instructions that the machine executes from beginning to end: the caller's, the kernel's, and
    /// those of whoever the caller waits for. The time-stamp counter counts them one by one.
    Machine,
    /// The calling thread's own time, for operations that wait for the disk.
    Thread,
    /// The time of children that have ended, for whole programs.
    Children,
}

impl Clock {
    /// Instructions so far.
    pub(crate) fn now(self) -> u64 {
        match self {
            // SAFETY: every x86-64 processor has the instruction.
            Self::Machine => unsafe { core::arch::x86_64::_rdtsc() },
            Self::Thread => {
                let time = clock_gettime(ClockId::ThreadCPUTime);
                time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
            }
            Self::Children => children(),
        }
    }
}

/// CPU time of the children that have ended, in nanoseconds.
fn children() -> u64 {
    // SAFETY: all zeroes are a valid rusage, and the call fills it in.
    let usage = unsafe {
        let mut usage: libc::rusage = core::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage), 0);
        usage
    };
    let nanoseconds =
        |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime)
}

/// CPU time of a running process with all its threads, in nanoseconds.
pub(crate) fn process(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    tasks
        .map(|task| {
            let path = task.expect("a thread").path().join("schedstat");
            let text = fs::read_to_string(path).expect("schedstat");
            let first = text.split_whitespace().next().expect("a number");
            first.parse::<u64>().expect("a number")
        })
        .sum()
}

/// Makes this thread run before everybody else's, so that nobody who was woken takes the CPU in the middle of
/// an operation. Programs that it starts are ordinary.
pub(crate) fn run_first() {
    let parameters = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameters outlive the call.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    assert_eq!(result, 0, "root may run in real time");
}

/// Lets whoever was woken do its work.
pub(crate) fn let_others_run() {
    std::thread::sleep(Duration::from_micros(300));
}
