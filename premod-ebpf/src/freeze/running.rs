//! The task that a program runs for.

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;

use crate::{
    call::{self, Ioctl},
    facts::fact,
    kernel::{load, read, read_u32},
    maps::{COMMAND, settings},
};

/// What the entry of an exception puts into the place of a system call's number.
const NO_CALL: i64 = -1;
/// `io_uring_enter`, the only call that passes its requests' errors on in another way than by its result.
const IO_URING_ENTER: u64 = 426;
/// SIGSTOP, SIGTSTP, SIGTTIN and SIGTTOU in a signal set, where bit 0 is signal 1.
const STOP_SIGNALS: u64 = 0b1111 << 18;
/// The global init process.
const INIT: u32 = 1;
/// How far up CMD's family is followed.
const ANCESTORS: u32 = 16;

/// `struct task_struct`
#[derive(Clone, Copy)]
pub(crate) struct Running(*const u8);

impl Running {
    #[inline(always)]
    pub(crate) fn now() -> Self {
        // SAFETY: no preconditions.
        Self(unsafe { bpf_get_current_task_btf() }.cast())
    }

    /// A thread of the kernel: nfsd, a loop device, writeback. It has no memory of its own.
    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        // SAFETY: mm is a pointer.
        let memory: u64 = unsafe { load!(self.0, task_struct_mm) };
        memory == 0
    }

    /// `struct pt_regs`: the task's user mode, as it was left.
    #[inline(always)]
    fn registers(self) -> *const u8 {
        call::registers(self.0)
    }

    /// The system call that the task is in the middle of.
    #[inline(always)]
    fn call(self) -> Option<u64> {
        call::call(self.registers())
    }

    /// In an exception that its user mode has made, most likely a page fault: in a system call, `orig_ax` has
    /// the number of that call.
    #[inline(always)]
    pub(crate) fn is_in_fault_of_user(self) -> bool {
        // SAFETY: as in `call`.
        let call: i64 = unsafe { load!(self.registers(), pt_regs_orig_ax) };
        call == NO_CALL && !self.is_kernel_thread()
    }

    /// In a system call of its own.
    #[inline(always)]
    pub(crate) fn is_in_call(self) -> bool {
        self.call().is_some()
    }

    /// In a system call that the kernel repeats by itself if it ends with `ERESTARTNOINTR`.
    #[inline(always)]
    pub(crate) fn is_in_restartable_call(self) -> bool {
        self.call().is_some_and(|call| call != IO_URING_ENTER)
    }

    /// Process id in the initial pid namespace.
    #[inline(always)]
    pub(crate) fn process(self) -> u32 {
        // SAFETY: tgid is a pid_t.
        unsafe { load!(self.0, task_struct_tgid) }
    }

    /// When the process began: nanoseconds since boot.
    #[inline(always)]
    pub(crate) fn started(self) -> u64 {
        // SAFETY: group_leader is a pointer to a task_struct, whose start_boottime is a u64.
        unsafe {
            let leader: *const u8 = load!(self.0, task_struct_group_leader);
            load!(leader, task_struct_start_boottime)
        }
    }

    /// Other threads have the same memory.
    #[inline(always)]
    pub(crate) fn has_threads(self) -> bool {
        // SAFETY: signal is a pointer to a signal_struct, whose nr_threads is an int.
        unsafe {
            let signal: *const u8 = load!(self.0, task_struct_signal);
            load!(signal, signal_struct_nr_threads: i32) > 1
        }
    }

    /// Somebody is stopping the process already.
    #[inline(always)]
    pub(crate) fn is_being_stopped(self) -> bool {
        // SAFETY: the offsets are those of the sets of pending signals (64 bits) and of group_stop_count
        // (an int) in struct task_struct and struct signal_struct.
        unsafe {
            let signal: *const u8 = load!(self.0, task_struct_signal);
            let pending: u64 = load!(self.0, task_struct_pending: u64)
                | load!(signal, signal_struct_shared_pending: u64);
            let stopping: i32 = load!(signal, signal_struct_group_stop_count);
            pending & STOP_SIGNALS != 0 || stopping > 0
        }
    }

    /// Must not be stopped: init; premod itself; CMD and its children, which premod waits for.
    #[inline(always)]
    pub(crate) fn must_run(self) -> bool {
        let process = self.process();
        process == INIT || process == settings().own_pid || self.is_of_command()
    }

    #[inline(always)]
    fn is_of_command(self) -> bool {
        let command = COMMAND.get(0).copied().unwrap_or(0);
        if command == 0 {
            return false;
        }
        let mut ancestor = self.0 as u64;
        for _ in 0..ANCESTORS {
            let process = read_u32(ancestor + u64::from(fact!(task_struct_tgid)));
            if process == command {
                return true;
            }
            if process <= INIT {
                return false;
            }
            ancestor = read(ancestor + u64::from(fact!(task_struct_real_parent)));
        }
        false
    }
}
