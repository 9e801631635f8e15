//! What premod was started with and changes for itself: CMD gets it as it was.

use std::{io, ptr};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How things were when premod was started.
#[derive(Clone, Debug)]
pub(super) struct Inherited {
    descriptors: Rlimit,
    /// Those of [`HEEDED`] that were ignored.
    ignored: Vec<i32>,
}

/// Signals that premod heeds even if it was started with them ignored: the end of its children, and those that a shell
/// without job control ignores in its background, where `kill -INT` still has to end a trace.
const HEEDED: [i32; 3] = [libc::SIGCHLD, libc::SIGINT, libc::SIGQUIT];

impl Inherited {
    /// Changes what premod needs otherwise: as many descriptors as it may have, and not to ignore [`HEEDED`].
    pub(super) fn adapt() -> Self {
        let descriptors = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: descriptors.maximum,
            ..descriptors
        };
        // If it stays as it is, that is said when it does not suffice.
        let _ = setrlimit(Resource::Nofile, raised);
        let ignored: Vec<_> = HEEDED.into_iter().filter(|&one| is_ignored(one)).collect();
        for &signal in &ignored {
            // SAFETY: the default action needs no handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Self {
            descriptors,
            ignored,
        }
    }

    /// In a child that is about to become CMD: as it was.
    pub(super) fn restore(&self) -> io::Result<()> {
        setrlimit(Resource::Nofile, self.descriptors)?;
        for &signal in &self.ignored {
            // SAFETY: ignoring a signal needs no handler.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        Ok(())
    }
}

/// Whether this process ignores a signal, as under nohup.
pub(super) fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeros is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the present action is written to a live one; nothing is changed.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}
