//! Tells whether a signal came to premod alone, or to its whole process group.
//!
//! What a terminal sends for Ctrl-C, or `kill -INT -GROUP`, reaches CMD as well as premod, and must not be passed on:
//! CMD would be interrupted twice, and many programs take the second time for "by force". What came to premod alone
//! has to be passed on. The kernel says who has sent a signal, not to how many. So a process that does nothing else
//! stands in the group and is asked whether it was sent the signal, too.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    ptr,
    time::Duration,
};

use rustix::process::{Signal, getpgrp, setpgid};

/// Longest wait for its answer; it may have been stopped.
const PATIENCE: Duration = Duration::from_millis(500);

/// A process in premod's group. It ends with premod.
pub(super) struct Witness(UnixStream);

impl Witness {
    /// Lets it take its stand.
    ///
    /// # Errors
    /// If there can be no process.
    pub(super) fn start() -> io::Result<Self> {
        let (mut ours, its) = UnixStream::pair()?;
        // SAFETY: the child calls nothing but what may be called in a child of a process with threads.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            // SAFETY: the child is a process of its own, and its descriptors are nobody else's.
            0 => unsafe { stand(its.as_raw_fd()) },
            _ => {}
        }
        drop(its);
        // From then on it misses nothing.
        ours.read_exact(&mut [0])?;
        // On a busy machine its first answer may take longer than any other: nothing is lost by waiting for that.
        ours.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(ours))
    }

    /// Whether the witness was sent this signal since it was asked last.
    pub(super) fn saw(&mut self, signal: Signal) -> bool {
        // The kernel sends a signal to all of a group under its lock of the task list. Whoever asks for the group
        // that he is in already waits for that lock, and changes nothing.
        let _ = setpgid(None, Some(getpgrp()));
        self.ask(signal).unwrap_or_else(|_| {
            // It has been killed or stopped. Another one takes its place, which has not seen it: rather twice than
            // not at all.
            if let Ok(another) = Self::start() {
                *self = another;
            }
            false
        })
    }

    fn ask(&mut self, signal: Signal) -> io::Result<bool> {
        self.0.write_all(&[signal.as_raw() as u8])?;
        let mut answer = [0];
        self.0.read_exact(&mut answer)?;
        Ok(answer == [1])
    }
}

/// In the child: keeps the signals, and tells of those that are asked for.
///
/// # Safety
/// Only in a child that has just been forked; `socket` is a descriptor that nobody else uses there.
unsafe fn stand(socket: RawFd) -> ! {
    let mut byte = 0u8;
    // SAFETY: system calls, and functions that may be called after a fork, with numbers and live addresses.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"premod-witness".as_ptr());
        // Pipes, files and locks end with premod.
        libc::dup2(socket, 0);
        libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0);
        // It needs no privilege: _LINUX_CAPABILITY_VERSION_3, and none of three sets of 64.
        let (header, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
        libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr());
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut());
        let now: libc::timespec = std::mem::zeroed();
        loop {
            if libc::write(0, (&raw const byte).cast(), 1) != 1
                || libc::read(0, (&raw mut byte).cast(), 1) != 1
            {
                libc::_exit(0);
            }
            let mut asked: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut asked, byte.into());
            let taken = libc::sigtimedwait(&raw const asked, ptr::null_mut(), &raw const now);
            byte = (taken > 0).into();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, kill_process};

    use super::*;

    #[test]
    fn it_tells_of_what_it_was_sent_and_of_nothing_else() {
        let mut witness = Witness::start().unwrap();
        assert!(!witness.saw(Signal::INT));
        let name = |pid: &Pid| {
            let path = format!("/proc/{}/comm", pid.as_raw_nonzero());
            std::fs::read_to_string(path).is_ok_and(|comm| comm == "premod-witness\n")
        };
        let children = std::fs::read_to_string(format!(
            "/proc/self/task/{}/children",
            rustix::thread::gettid().as_raw_nonzero()
        ));
        let children = children.unwrap();
        let pids = children
            .split_whitespace()
            .filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        let pid = pids.into_iter().find(name).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(witness.saw(Signal::INT));
        assert!(!witness.saw(Signal::INT));
        assert!(witness.saw(Signal::TERM));
        kill_process(pid, Signal::KILL).unwrap();
        assert!(!witness.saw(Signal::TERM), "another one stands there");
    }
}
