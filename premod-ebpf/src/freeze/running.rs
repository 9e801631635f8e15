//! The task that a program runs for.

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;

use crate::{
    call,
    kernel::load,
    maps::{COMMANDS, settings},
};

/// What the entry of an exception puts into the place of a system call's number.
const NO_CALL: i64 = -1;
/// `io_uring_enter`, the only call that passes its requests' errors on in another way than by its result.
const IO_URING_ENTER: u64 = 426;
/// The signals that stop a process, of the kernel's stable interface.
pub(crate) const SIGSTOP: u8 = 19;
const SIGTSTP: u8 = 20;
const SIGTTIN: u8 = 21;
pub(crate) const SIGTTOU: u8 = 22;

/// A signal in a set, where bit 0 is signal 1.
const fn bit(signal: u8) -> u64 {
    1 << (signal - 1)
}

/// The global init process.
const INIT: u32 = 1;

/// `struct task_struct`
#[derive(Clone, Copy)]
pub(crate) struct Running(*const u8);

impl Running {
    #[inline(always)]
    pub(crate) fn now() -> Self {
        // SAFETY: no preconditions.
        Self(unsafe { bpf_get_current_task_btf() }.cast())
    }

    /// The task of this address, which the verifier knows to be one.
    #[inline(always)]
    pub(crate) fn of(task: *const u8) -> Self {
        Self(task)
    }

    /// Address of the task, by which it is known for as long as it lives.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    /// Address of its memory.
    #[inline(always)]
    pub(crate) fn memory(self) -> u64 {
        // SAFETY: mm is a pointer.
        unsafe { load!(self.0, task_struct_mm) }
    }

    /// A thread of the kernel: nfsd, a loop device, writeback. It has no memory of its own.
    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        self.memory() == 0
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

    /// It is the first thread of its process.
    #[inline(always)]
    pub(crate) fn leads(self) -> bool {
        // SAFETY: group_leader is a pointer.
        let leader: u64 = unsafe { load!(self.0, task_struct_group_leader) };
        leader == self.address()
    }

    /// How many threads its process has.
    #[inline(always)]
    pub(crate) fn threads(self) -> i32 {
        // SAFETY: signal is a pointer to a signal_struct, whose nr_threads is an int.
        unsafe {
            let signal: *const u8 = load!(self.0, task_struct_signal);
            load!(signal, signal_struct_nr_threads)
        }
    }

    /// The signal by which somebody is stopping the process already; 0 if nobody is.
    #[inline(always)]
    pub(crate) fn being_stopped_by(self) -> u8 {
        // SAFETY: the offsets are those of the sets of pending signals (64 bits) and of group_stop_count
        // (an int) in struct task_struct and struct signal_struct.
        unsafe {
            let signal: *const u8 = load!(self.0, task_struct_signal);
            let pending: u64 = load!(self.0, task_struct_pending: u64)
                | load!(signal, signal_struct_shared_pending: u64);
            let stopping: i32 = load!(signal, signal_struct_group_stop_count);
            if stopping > 0 || pending & bit(SIGSTOP) != 0 {
                SIGSTOP
            } else if pending & bit(SIGTSTP) != 0 {
                SIGTSTP
            } else if pending & bit(SIGTTIN) != 0 {
                SIGTTIN
            } else if pending & bit(SIGTTOU) != 0 {
                SIGTTOU
            } else {
                0
            }
        }
    }

    /// Must not be stopped: init; premod itself; CMD and what it has started, which premod waits for.
    #[inline(always)]
    pub(crate) fn must_run(self) -> bool {
        let process = self.process();
        process == INIT || process == settings().own_pid || self.is_of_command()
    }

    /// CMD, or started by it.
    #[inline(always)]
    pub(crate) fn is_of_command(self) -> bool {
        // SAFETY: only whether there is an entry matters.
        unsafe { COMMANDS.get(self.address()) }.is_some()
    }
}
