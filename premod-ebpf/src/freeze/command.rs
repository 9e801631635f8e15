//! What CMD has started is CMD's, however many generations later, and though its parent may have ended: each task is
//! marked when it is made, if the one that makes it is. premod's own children are, so CMD is before it is executed.
//!
//! A mark is the address of the task. Security hooks are never skipped, so that it is right for as long as the task lives.

use aya_ebpf::{macros::lsm, programs::LsmContext};

use crate::{
    maps::{COMMANDS, HELD, SEIZED, settings},
    memory,
    running::Running,
};

/// `security_task_alloc(struct task_struct *task, unsigned long clone_flags)`, 6.1 to 7.x: the running task makes
/// another one.
#[lsm(hook = "task_alloc")]
fn task_alloc(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(2);
    let clone_flags: u64 = ctx.arg(1);
    let (parent, child) = (Running::now(), Running::of(ctx.arg(0)));
    if parent.process() == settings().own_pid || parent.is_of_command() {
        // One too many is held like anybody else.
        let _ = COMMANDS.insert(child.address(), 1, 0);
    } else if child.is_of_command() {
        // Of a task that had this memory before, and whose end was not noted.
        let _ = COMMANDS.remove(child.address());
    }
    memory::task_is_made(parent, clone_flags);
    verdict
}

/// `security_task_free(struct task_struct *task)`, 6.1 to 7.x: nobody knows the task any more.
#[lsm(hook = "task_free")]
fn task_free(ctx: LsmContext) -> i32 {
    let task = Running::of(ctx.arg(0));
    if task.is_of_command() {
        let _ = COMMANDS.remove(task.address());
    }
    // Whoever dies while it is held needs not be continued, and its place is somebody else's.
    let process = task.process();
    // SAFETY: a copy of a value that no program changes once it is there.
    let held = unsafe { HELD.get(process) }.map(|held| held.started);
    if task.leads() && held == Some(task.started()) {
        let _ = HELD.remove(process);
    }
    // SAFETY: as above.
    let seized = unsafe { SEIZED.get(process) }.map(|seized| seized.started);
    if task.leads() && seized == Some(task.started()) {
        let _ = SEIZED.remove(process);
    }
    0
}
