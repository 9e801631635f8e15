//! Which memory several processes have: a page that one of them makes writable is so for all.
//!
//! How many hold a memory is known to the kernel, but whoever looks into it holds it too meanwhile: `/proc/PID/cmdline`,
//! `process_vm_readv`, premod's own listing of mappings. So it is noted when it comes to be shared: here since the programs
//! hang, and by premod, which lists who has the files mapped, if it was so before.

use crate::{
    maps::{SHARED, TALLY, count},
    running::Running,
};

/// `CLONE_VM` and `CLONE_THREAD` of the kernel's stable interface.
const CLONE_VM: u64 = 0x100;
const CLONE_THREAD: u64 = 0x1_0000;

/// The running task makes another one.
#[inline(always)]
pub(crate) fn task_is_made(parent: Running, clone_flags: u64) {
    let memory = parent.memory();
    let is_shared = clone_flags & (CLONE_VM | CLONE_THREAD) == CLONE_VM;
    // A thread of the kernel has none.
    if is_shared && memory != 0 && SHARED.insert(memory, 1, 0).is_err() {
        count!(unnoted);
    }
}

/// Whether other processes have the memory of this task. Those that had it are not told from those that look into it.
#[inline(always)]
pub(crate) fn is_shared(task: Running) -> bool {
    // SAFETY: only whether there is an entry matters.
    let known = unsafe { SHARED.get(task.memory()) }.is_some();
    // What could not be noted may be this one.
    let unnoted = || TALLY.get(0).is_some_and(|tally| tally.unnoted != 0);
    task.is_memory_held_by_others() && (known || unnoted())
}
