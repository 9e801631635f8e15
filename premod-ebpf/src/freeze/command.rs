//! What CMD has started is CMD's, however many generations later, and though its parent may have ended: each task is
//! marked when it is made, if the one that makes it is. premod's own children are, so CMD is before it is executed.
//!
//! A mark is the address of the task. Security hooks are never skipped, so that it is right for as long as the task lives.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use premod_common::guard::Phase;

use crate::{
    maps::kind::Held,
    memory,
    running::Running,
    set::{Set, count, each},
};

/// `security_task_alloc(struct task_struct *task, unsigned long clone_flags)`, 6.1 to 7.x: the running task makes
/// another one.
#[lsm(hook = "task_alloc")]
fn task_alloc(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(2);
    let clone_flags: u64 = ctx.arg(1);
    let parent = Running::now();
    let mut made = Made {
        parent: parent.address(),
        process: parent.process(),
        child: ctx.arg(0),
        memory: memory::comes_to_be_shared(parent, clone_flags),
    };
    each(&mut made, is_made);
    verdict
}

/// A task that another one makes.
struct Made {
    parent: u64,
    process: u32,
    child: u64,
    /// The memory that they share; 0 if they share none.
    memory: u64,
}

/// Marks it for one freeze.
unsafe extern "C" fn is_made(place: u64, made: *mut Made) -> i64 {
    let set = Set::at(place as u32);
    // SAFETY: the loop passes what it was given.
    let made = unsafe { &*made };
    if made.memory != 0 && !memory::note(set, made.memory) {
        count!(set, unnoted);
    }
    let Some(commands) = set.commands() else {
        return 0;
    };
    // SAFETY: only whether there is an entry matters.
    let is_marked = |task| unsafe { commands.get(task) }.is_some();
    if made.process == set.own().pid || is_marked(made.parent) {
        // One too many is held like anybody else.
        let _ = commands.insert(made.child, 1, 0);
    } else if is_marked(made.child) {
        // Of a task that had this memory before, and whose end was not noted.
        let _ = commands.remove(made.child);
    }
    0
}

/// `security_task_free(struct task_struct *task)`, 6.1 to 7.x: nobody knows the task any more.
#[lsm(hook = "task_free")]
fn task_free(ctx: LsmContext) -> i32 {
    let task = Running::of(ctx.arg(0));
    let mut freed = Freed {
        task: task.address(),
        signal: task.signal(),
        started: task.started(),
        process: task.process(),
        leads: task.leads(),
    };
    each(&mut freed, is_freed);
    0
}

/// A task that has ended.
struct Freed {
    task: u64,
    signal: u64,
    started: u64,
    process: u32,
    leads: bool,
}

/// Forgets it in one freeze.
unsafe extern "C" fn is_freed(place: u64, freed: *mut Freed) -> i64 {
    let set = Set::at(place as u32);
    // SAFETY: the loop passes what it was given.
    let freed = unsafe { &*freed };
    if let Some(commands) = set.commands()
        // SAFETY: only whether there is an entry matters.
        && unsafe { commands.get(freed.task) }.is_some()
    {
        let _ = commands.remove(freed.task);
    }
    if !freed.leads {
        return 0;
    }
    // Whoever dies while it is held needs not be continued, and its place is somebody else's.
    forget(set.held(), freed);
    forget(set.seized(), freed);
    // The freeze's own premod: whose address this is from now on nobody knows.
    if freed.signal == set.own().signal
        && let Some(switch) = set.switch().and_then(|switches| switches.get_ptr_mut(0))
    {
        // SAFETY: the pointer comes from the map.
        unsafe { (&raw mut (*switch).phase).write_volatile(Phase::Open as u64) };
    }
    0
}

#[inline(always)]
fn forget(all: Option<&Held>, freed: &Freed) {
    let Some(all) = all else {
        return;
    };
    // SAFETY: a copy of a value that no program changes once it is there.
    let noted = unsafe { all.get(freed.process) }.map(|held| held.started);
    if noted == Some(freed.started) {
        let _ = all.remove(freed.process);
    }
}
