//! What premod was started with and changes for itself: CMD gets it as it was.

use std::{
    io, ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Whether SIGPIPE was ignored when premod was started.
static PIPES_IGNORED: AtomicBool = AtomicBool::new(false);

/// Whether stdout was closed then.
static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Rust's runtime ignores SIGPIPE before `main`, and opens /dev/null in the place of what is closed: only what runs before
/// that can see how it was.
#[used]
// SAFETY: the C library calls it once, before there are threads; it makes two system calls and stores what they say.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn look() {
        PIPES_IGNORED.store(is_ignored(libc::SIGPIPE), Ordering::Relaxed);
        // SAFETY: asks for a flag of a number, whether it is a descriptor or not.
        let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
        STDOUT_CLOSED.store(flags < 0, Ordering::Relaxed);
    }
    look
};

/// Signals that premod heeds even if it was started with them ignored: the end of its children, and those that a shell
/// without job control ignores in its background, where `kill -INT` still has to end a trace.
const HEEDED: [i32; 3] = [libc::SIGCHLD, libc::SIGINT, libc::SIGQUIT];

/// Signals that would kill premod where it can say what is wrong: a file that has grown as large as it may (`ulimit -f`).
const SURVIVED: [i32; 1] = [libc::SIGXFSZ];

/// Whether premod was started without stdout, so that what it writes there goes nowhere.
pub(super) fn stdout_was_closed() -> bool {
    STDOUT_CLOSED.load(Ordering::Relaxed)
}

/// How things were when premod was started.
#[derive(Clone)]
pub(super) struct Inherited {
    descriptors: Rlimit,
    /// Signals that were ignored, of those that premod needs otherwise.
    ignored: Vec<i32>,
    /// Signals that were not, of those that premod ignores.
    heeded: Vec<i32>,
    /// Signals that were blocked.
    blocked: libc::sigset_t,
}

impl Inherited {
    /// Changes what premod needs otherwise: as many descriptors as it may have, not to ignore [`HEEDED`], and to ignore
    /// [`SURVIVED`].
    pub(super) fn adapt() -> Self {
        let descriptors = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: descriptors.maximum,
            ..descriptors
        };
        // If it stays as it is, that is said when it does not suffice.
        let _ = setrlimit(Resource::Nofile, raised);
        let mut ignored: Vec<_> = HEEDED.into_iter().filter(|&one| is_ignored(one)).collect();
        for &signal in &ignored {
            // SAFETY: the default action needs no handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        let heeded: Vec<_> = SURVIVED
            .into_iter()
            .filter(|&one| !is_ignored(one))
            .collect();
        for &signal in &heeded {
            // SAFETY: ignoring a signal needs no handler.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        if PIPES_IGNORED.load(Ordering::Relaxed) {
            ignored.push(libc::SIGPIPE);
        }
        Self {
            descriptors,
            ignored,
            heeded,
            blocked: blocked(),
        }
    }

    /// In a child that is about to become CMD: as it was. The standard library has let it have SIGPIPE, and all signals
    /// come through.
    pub(super) fn restore(&self) -> io::Result<()> {
        setrlimit(Resource::Nofile, self.descriptors)?;
        for &signal in &self.ignored {
            // SAFETY: ignoring a signal needs no handler.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        for &signal in &self.heeded {
            // SAFETY: the default action needs no handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        // SAFETY: a set of signals that is live.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.blocked, ptr::null_mut()) };
        Ok(())
    }
}

/// The signals that this thread blocks.
fn blocked() -> libc::sigset_t {
    // SAFETY: all zeros is a valid, empty set.
    let mut blocked: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the present set is written to a live one; nothing is changed.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, ptr::null(), &raw mut blocked) };
    blocked
}

/// Whether this process ignores a signal, as under nohup.
pub(super) fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeros is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the present action is written to a live one; nothing is changed.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}
