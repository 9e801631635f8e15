//! Signals that wait for a thread that stands still.

use std::{fs, str};

use super::processes::status;

/// A signal in a set, where bit 0 is signal 1.
const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What does not kill by default.
const HARMLESS: u64 = bit(libc::SIGCHLD)
    | bit(libc::SIGCONT)
    | bit(libc::SIGURG)
    | bit(libc::SIGWINCH)
    | bit(libc::SIGSTOP)
    | bit(libc::SIGTSTP)
    | bit(libc::SIGTTIN)
    | bit(libc::SIGTTOU);

/// A thread's signals, as `status` tells them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signals {
    /// Of the thread's own and of its process's.
    pending: u64,
    blocked: u64,
    /// Ignored or caught by its process.
    handled: u64,
}

impl Signals {
    /// Those of a thread; `None` if it has ended.
    pub(super) fn of(pid: u32, thread: u32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/task/{thread}/status")).ok()?)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let set = |name| {
            let digits = str::from_utf8(status(text, name)?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        Some(Self {
            pending: set(b"SigPnd:")? | set(b"ShdPnd:")?,
            blocked: set(b"SigBlk:")?,
            handled: set(b"SigIgn:")? | set(b"SigCgt:")?,
        })
    }

    /// Whether any does.
    pub(super) fn are_waiting(self) -> bool {
        self.pending != 0
    }

    /// Whether the thread's process dies as soon as the thread goes on.
    pub(super) fn will_kill(self) -> bool {
        self.pending & !self.blocked & !self.handled & !HARMLESS != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_kills_that_is_neither_blocked_nor_handled_nor_harmless() {
        let signals = |pending: i32, blocked: u64, caught: u64| {
            let text = format!(
                "Name:\tx\nSigQ:\t0/1\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{caught:016x}\n",
                0,
                bit(pending),
                0
            );
            Signals::parse(text.as_bytes()).unwrap()
        };
        let term = bit(libc::SIGTERM);
        assert!(signals(libc::SIGTERM, 0, 0).will_kill());
        for harmless in [
            signals(libc::SIGTERM, term, 0),
            signals(libc::SIGTERM, 0, term),
            signals(libc::SIGCONT, 0, 0),
            signals(libc::SIGTSTP, 0, 0),
        ] {
            assert!(harmless.are_waiting() && !harmless.will_kill());
        }
        let own = std::process::id();
        assert!(Signals::of(own, own).is_some());
    }
}
