//! The task that a program runs for.

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;

use crate::{
    call,
    facts::fact,
    kernel::{load, read, read_u32},
    set::Set,
};

/// What the entry of an exception puts into the place of a system call's number.
const NO_CALL: i64 = -1;
/// `io_uring_enter`, the only call that passes its requests' errors on in another way than by its result.
const IO_URING_ENTER: u64 = 426;
/// System calls in which the kernel opens a file to write to it by itself: swapon, acct, and the write family, when it is a
/// setting that is written. In calls of 64 bits, and of 32 bits; the other calls with these numbers open nothing.
const SWAPON: [u64; 2] = [167, 87];
const ACCT: [u64; 2] = [163, 51];
const WRITE: [u64; 2] = [1, 4];
const PWRITE64: [u64; 2] = [18, 181];
const WRITEV: [u64; 2] = [20, 146];
const PWRITEV: [u64; 2] = [296, 334];
/// The bit of numbers in calls of 32 bits in the registers of 64 (x32).
const X32: u64 = 0x4000_0000;
/// The signal that kills, and those that stop a process, of the kernel's stable interface.
const SIGKILL: u8 = 9;
pub(crate) const SIGSTOP: u8 = 19;
const SIGTSTP: u8 = 20;
const SIGTTIN: u8 = 21;
pub(crate) const SIGTTOU: u8 = 22;

pub(crate) const SIGCONT: u8 = 18;
/// Where the handler of SIGCONT stands in `sighand_struct.action`, an array of `struct k_sigaction`, which is the `sigaction`
/// of the stable interface: handler, flags, restorer, set.
const SIGCONT_ACTION: u64 = (SIGCONT as u64 - 1) * 4 * 8;
/// `SIG_IGN` of the stable interface; `SIG_DFL` is 0.
const SIG_IGN: u64 = 1;

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

    /// What it opens is not for itself, but for the kernel.
    #[inline(always)]
    pub(crate) fn opens_for_the_kernel(self) -> bool {
        let calls = [SWAPON, ACCT, WRITE, PWRITE64, WRITEV, PWRITEV];
        let is_now = |call| calls.iter().flatten().any(|&one| one == call);
        self.call().is_some_and(|call| is_now(call & !X32))
    }

    /// Address of the open file that this descriptor of its stands for; something else if there is none.
    #[inline(always)]
    pub(crate) fn file(self, descriptor: u32) -> u64 {
        // SAFETY: files is a pointer.
        let files: u64 = unsafe { load!(self.0, task_struct_files) };
        let table = read(files + u64::from(fact!(files_struct_fdt)));
        if descriptor >= read_u32(table + u64::from(fact!(fdtable_max_fds))) {
            return 0;
        }
        read(read(table + u64::from(fact!(fdtable_fd))) + u64::from(descriptor) * 8)
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

    /// Address of what its process's threads have in common.
    #[inline(always)]
    pub(crate) fn signal(self) -> u64 {
        // SAFETY: signal is a pointer.
        unsafe { load!(self.0, task_struct_signal) }
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

    /// How many of them have not ended: a first thread counts as one of its process until all others have ended, too, and holds
    /// neither memory nor descriptors meanwhile.
    #[inline(always)]
    fn live_threads(self) -> i32 {
        // SAFETY: signal is a pointer to a signal_struct, whose counter is an int.
        unsafe {
            let signal: *const u8 = load!(self.0, task_struct_signal);
            load!(signal, signal_struct_live)
        }
    }

    /// Whether something waits for the task that it looks after before it returns to user mode, so that the system call
    /// is repeated which ends with `ERESTARTNOINTR`.
    #[inline(always)]
    pub(crate) fn flags(self) -> u64 {
        // SAFETY: thread_info.flags is an unsigned long.
        unsafe { load!(self.0, task_struct_thread_info_flags) }
    }

    /// Other processes may have its descriptors or its memory: more hold them than its process has threads.
    #[inline(always)]
    pub(crate) fn may_share(self) -> bool {
        let threads = self.live_threads();
        // SAFETY: files is a pointer to a files_struct, whose counter is an int.
        let holders: i32 = unsafe {
            let files: *const u8 = load!(self.0, task_struct_files);
            load!(files, files_struct_count)
        };
        holders > threads || self.is_memory_held_by_others()
    }

    /// More hold its memory than its process has threads: other processes have it, or look into it.
    #[inline(always)]
    pub(crate) fn is_memory_held_by_others(self) -> bool {
        // SAFETY: mm is a pointer to a mm_struct, whose counter is an int.
        let holders: i32 = unsafe {
            let memory: *const u8 = load!(self.0, task_struct_mm);
            load!(memory, mm_struct_mm_users)
        };
        holders > self.live_threads()
    }

    /// Its process does something when it gets SIGCONT.
    #[inline(always)]
    pub(crate) fn handles_sigcont(self) -> bool {
        // SAFETY: sighand is a pointer.
        let handlers: u64 = unsafe { load!(self.0, task_struct_sighand) };
        let action = handlers + u64::from(fact!(sighand_struct_action)) + SIGCONT_ACTION;
        read(action) > SIG_IGN
    }

    /// SIGSTOP is pending for it, and for its whole process.
    #[inline(always)]
    pub(crate) fn sigstop_is_pending(self) -> (bool, bool) {
        // SAFETY: as in `being_stopped_by`.
        unsafe {
            let signal: *const u8 = load!(self.0, task_struct_signal);
            let own: u64 = load!(self.0, task_struct_pending);
            let shared: u64 = load!(signal, signal_struct_shared_pending);
            (own & bit(SIGSTOP) != 0, shared & bit(SIGSTOP) != 0)
        }
    }

    /// Somebody else than premod's keeper traces it. It gets a signal only if he lets it, and stops only if he does.
    #[inline(always)]
    fn is_traced_by_others(self, set: Set) -> bool {
        // SAFETY: ptrace is an unsigned int; parent is a pointer to a task_struct, whose tgid is a pid_t.
        unsafe {
            let traced: u32 = load!(self.0, task_struct_ptrace);
            let tracer: *const u8 = load!(self.0, task_struct_parent);
            if traced == 0 || tracer.is_null() {
                return false;
            }
            let tracer: u32 = load!(tracer, task_struct_tgid);
            tracer != set.own().keeper
        }
    }

    /// It stops, or dies, before it returns to user mode, whatever others do but to send SIGCONT.
    #[inline(always)]
    pub(crate) fn is_to_stop_or_die(self, set: Set) -> bool {
        // SAFETY: as in `being_stopped_by`.
        let pending: u64 = unsafe { load!(self.0, task_struct_pending) };
        pending & bit(SIGKILL) != 0
            || self.being_stopped_by() == SIGSTOP && !self.is_traced_by_others(set)
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
    pub(crate) fn must_run(self, set: Set) -> bool {
        let process = self.process();
        process == INIT || process == set.own().pid || self.is_of_command(set)
    }

    /// CMD, or started by it.
    #[inline(always)]
    pub(crate) fn is_of_command(self, set: Set) -> bool {
        let commands = set.commands();
        // SAFETY: only whether there is an entry matters.
        commands.is_some_and(|commands| unsafe { commands.get(self.address()) }.is_some())
    }
}
