//! Which memory several processes have: a page that one of them makes writable is so for all.
//!
//! How many hold a memory is known to the kernel, but whoever looks into it holds it too meanwhile: `/proc/PID/cmdline`,
//! `process_vm_readv`, premod's own listing of mappings. So it is noted when it comes to be shared: here since the programs
//! hang, and by premod, which lists who has the files mapped, if it was so before.

use crate::{running::Running, set::Set};

/// `CLONE_VM` and `CLONE_THREAD` of the kernel's stable interface.
const CLONE_VM: u64 = 0x100;
const CLONE_THREAD: u64 = 0x1_0000;

/// The memory that the running task comes to share, by making another one with these flags; 0 if it shares none.
#[inline(always)]
pub(crate) fn comes_to_be_shared(parent: Running, clone_flags: u64) -> u64 {
    let is_shared = clone_flags & (CLONE_VM | CLONE_THREAD) == CLONE_VM;
    // A thread of the kernel has none.
    if is_shared { parent.memory() } else { 0 }
}

/// Notes for one freeze that several processes have this memory; whether that could be noted.
#[inline(always)]
pub(crate) fn note(set: Set, memory: u64) -> bool {
    // A freeze that is about to come, or to go, guards nothing yet, or any more.
    let shared = set.shared();
    shared.is_none_or(|shared| shared.insert(memory, 1, 0).is_ok())
}

/// Whether other processes have the memory of this task. Those that had it are not told from those that look into it.
#[inline(always)]
pub(crate) fn is_shared(set: Set, task: Running) -> bool {
    // SAFETY: only whether there is an entry matters.
    let is_known = |memory| {
        set.shared()
            .and_then(|it| unsafe { it.get(memory) })
            .is_some()
    };
    let known = is_known(task.memory());
    // What could not be noted may be this one.
    let tally = || set.tally().and_then(|tallies| tallies.get(0));
    let unnoted = || tally().is_some_and(|tally| tally.unnoted != 0);
    task.is_memory_held_by_others() && (known || unnoted())
}
