//! Detaches without waiting for the kernel.
//!
//! To take a program off a function the kernel waits until no task can be on its way into it
//! (`synchronize_rcu_tasks` in `ftrace_shutdown`): about a tenth of a second, and premod has dozens of programs. A
//! child does that waiting. It holds what belongs to BPF and nothing else, so that pipes and locks end with premod.

use std::{
    fs,
    io::Read,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
};

/// How /proc names the descriptors that the child keeps.
const BPF: &[u8] = b"anon_inode:bpf";

/// Calls what drops programs that are attached. They are detached by a child, soon after this returns; if there
/// can be no child, before.
pub(crate) fn behind<T>(end: impl FnOnce() -> T) -> T {
    let child = hand_over();
    if let Err(error) = &child {
        tracing::debug!("nobody takes the programs off for us: {error}");
    }
    let ended = end();
    drop(child);
    ended
}

/// A child that holds what belongs to BPF until the other end of the socket is closed.
fn hand_over() -> std::io::Result<UnixStream> {
    let (mut ours, childs) = UnixStream::pair()?;
    let others = others(childs.as_raw_fd())?;
    // SAFETY: the child calls nothing but what may be called in a child of a process with threads.
    match unsafe { libc::fork() } {
        -1 => return Err(std::io::Error::last_os_error()),
        // SAFETY: the child is a process of its own, and its descriptors are nobody else's.
        0 => unsafe { wait_and_exit(&others, childs.as_raw_fd()) },
        _ => {}
    }
    drop(childs);
    // From then on it holds nothing else.
    ours.read_exact(&mut [0])?;
    Ok(ours)
}

/// The descriptors that the child closes.
fn others(kept: RawFd) -> std::io::Result<Vec<RawFd>> {
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        // The one through which the directory is read is closed by the time of the fork.
        let (Some(number), Ok(target)) = (number, fs::read_link(entry.path())) else {
            continue;
        };
        let is_bpf = target.as_os_str().as_encoded_bytes().starts_with(BPF);
        if number != kept && !is_bpf {
            others.push(number);
        }
    }
    Ok(others)
}

/// In the child: keeps what belongs to BPF until the parent holds it no more.
///
/// # Safety
/// Only in a child that has just been forked; `others` and `parent` are descriptors that nobody uses there.
unsafe fn wait_and_exit(others: &[RawFd], parent: RawFd) -> ! {
    let mut byte = 0u8;
    // SAFETY: system calls with numbers and with the address of a byte.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"premod-detach".as_ptr());
        for &other in others {
            libc::close(other);
        }
        libc::write(parent, (&raw const byte).cast(), 1);
        while libc::read(parent, (&raw mut byte).cast(), 1) < 0
            && *libc::__errno_location() == libc::EINTR
        {}
        libc::_exit(0)
    }
}
