//! The few ptrace requests that a hold needs.
//!
//! All but [`wait`] have to come from the thread that has seized the other one, for as long as that thread lives.

use std::{io, ptr};

/// What has become of a seized thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It has ended.
    Ended,
    /// It stands still: it was interrupted, its process is stopped, or it has just been made or has made another one.
    Stands,
    /// It stands still because it begins a system call, or ends one, and was asked to ([`go_on_to_call`]).
    Calls,
    /// It stands still because it is about to get this signal, which whoever has seized it decides on.
    Signalled(i32),
}

/// Seizes a thread; nobody notices. With `follow`, what it makes (threads, processes) is seized from its beginning, and
/// stands still.
///
/// If whoever has seized it dies while it stands still at a system call, it gets SIGTRAP and is killed by it, unless the two
/// have been told apart (`PTRACE_O_TRACESYSGOOD`): then it gets what is no signal.
pub(super) fn seize(thread: u32, follow: bool) -> io::Result<()> {
    const FOLLOW: libc::c_int =
        libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK;
    let follow = if follow { FOLLOW } else { 0 };
    request(
        libc::PTRACE_SEIZE,
        thread,
        follow | libc::PTRACE_O_TRACESYSGOOD,
    )
}

/// Has a thread stand still as soon as it leaves the kernel, or wakes.
pub(super) fn interrupt(thread: u32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, thread, 0)
}

/// Lets a thread that stands still go on, with this signal or none (0), and keeps it seized.
pub(super) fn go_on(thread: u32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, thread, signal)
}

/// The same, and gives it free.
pub(super) fn let_go(thread: u32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, thread, signal)
}

/// Lets a thread that stands still go on, until it begins a system call or ends one ([`Change::Calls`]).
pub(super) fn go_on_to_call(thread: u32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, thread, 0)
}

/// Whether a thread that stands still will repeat the system call that it was in, as the kernel side has told it to.
#[cfg(target_arch = "x86_64")]
pub(super) fn will_repeat_call(thread: u32) -> bool {
    /// `-ERESTARTNOINTR` of include/linux/errno.h.
    const REPEAT: i64 = -513;
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    let nowhere: *mut libc::c_void = ptr::null_mut();
    // SAFETY: the kernel fills the structure, of which all bit patterns are valid.
    let (result, registers) = unsafe {
        let thread = thread.cast_signed();
        let result = libc::ptrace(
            libc::PTRACE_GETREGS,
            thread,
            nowhere,
            registers.as_mut_ptr(),
        );
        (result, registers.assume_init())
    };
    result == 0 && registers.rax.cast_signed() == REPEAT
}

/// The same, where nobody has tried how to know it.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn will_repeat_call(_thread: u32) -> bool {
    false
}

fn request(request: libc::c_uint, thread: u32, data: i32) -> io::Result<()> {
    let nowhere: *mut libc::c_void = ptr::null_mut();
    // SAFETY: these requests pass numbers only, and read or write no memory of ours.
    let result = unsafe {
        libc::ptrace(
            request,
            thread.cast_signed(),
            nowhere,
            libc::c_long::from(data),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits for the next thing that becomes of any thread that was seized by a thread of this process, or of a child.
pub(super) fn wait() -> io::Result<(u32, Change)> {
    let mut status = 0;
    // SAFETY: the pointer is that of an int.
    let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
    let Ok(thread @ 1..) = u32::try_from(thread) else {
        return Err(io::Error::last_os_error());
    };
    let change = if !libc::WIFSTOPPED(status) {
        Change::Ended
    } else if status >> 16 != 0 {
        Change::Stands
    } else if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 {
        Change::Calls
    } else {
        Change::Signalled(libc::WSTOPSIG(status))
    };
    Ok((thread, change))
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Child, Command},
        thread::sleep,
        time::Duration,
    };

    use super::*;

    /// Ends the child of a failed test, too.
    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Seizes a thread, and dies while it stands at the beginning of its system call.
    fn die_at_its_call(thread: u32) -> io::Result<()> {
        seize(thread, false)?;
        interrupt(thread)?;
        while wait()? != (thread, Change::Stands) {}
        go_on_to_call(thread)?;
        while wait()? != (thread, Change::Calls) {}
        // SAFETY: a system call with numbers.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        Ok(())
    }

    #[test]
    fn whoever_stands_at_a_system_call_outlives_its_tracer() {
        let mut sleeper = Sleeper(Command::new("sleep").arg("60").spawn().unwrap());
        let pid = sleeper.0.id();
        // Until it sleeps it may be anywhere, and it repeats the call that it is interrupted in.
        sleep(Duration::from_millis(100));
        // SAFETY: the child makes system calls, and nothing else.
        let tracer = unsafe { libc::fork() };
        if tracer == 0 {
            let _ = die_at_its_call(pid);
            // SAFETY: it ends the child of a process with threads, as is allowed there.
            unsafe { libc::_exit(1) };
        }
        let mut status = 0;
        // SAFETY: the pointer is that of an int.
        let waited = unsafe { libc::waitpid(tracer, &raw mut status, 0) };
        assert_eq!(waited, tracer);
        assert!(
            libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL,
            "it did not die at the call: {status:#x}"
        );
        sleep(Duration::from_millis(200));
        let ended = sleeper.0.try_wait().unwrap();
        assert_eq!(ended, None, "the sleeper did not outlive it");
    }
}
