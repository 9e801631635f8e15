//! Stopping processes beforehand by SIGSTOP, from user space: those that cannot be seized ([`super::seizer`]), because
//! somebody else traces them.

use std::{
    io,
    time::{Duration, Instant},
};

use premod_common::{event::Op, guard::HeldProcess};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::sleep;

use super::{
    keeper::let_go,
    others::Others,
    processes::{TICK, is_stopped, stands_still, started},
};
use crate::{
    error::Error,
    events,
    freeze::{guards::Controls, users::User},
};

/// How often a process is looked at until it has stopped.
const LOOK: Duration = Duration::from_millis(1);

/// Stops a process. It is noted first, so that the keeper finds it whatever happens to us.
///
/// Returns whether it was us: a process that is stopped already is left to whoever stopped it. If that was another
/// premod, it is stopped by both.
pub(crate) fn stop(controls: &mut Controls, others: &Others, user: &User) -> Result<bool, Error> {
    let stopped = || is_stopped(user.pid) && !others.hold(user.pid, user.started);
    if user.pid == 1 || stopped() {
        return Ok(false);
    }
    let mut comm = [0; 16];
    let length = user.comm.len().min(15);
    comm[..length].copy_from_slice(&user.comm[..length]);
    let held = HeldProcess {
        started: user.started,
        since: events::now().0,
        inode: 0,
        writable: 0,
        tid: user.pid,
        op: Op::Mmap as u8,
        stopped_by_others: 0,
        rounds: 0,
        comm,
    };
    // A hook may have stopped it already; if somebody has continued it since, it is stopped again. A note of another
    // process that had its number is void.
    let noted = controls.held.get(&user.pid, 0);
    if !noted.is_ok_and(|noted| noted.started == user.started) {
        const ANY: u64 = 0;
        controls
            .held
            .insert(user.pid, held, ANY)
            .map_err(|error| Error::kernel("cannot note a process to be stopped", &error))?;
    }
    let sent = open(user)
        .and_then(|process| pidfd_send_signal(process, Signal::STOP).map_err(io::Error::from));
    if let Err(error) = sent {
        let _ = controls.held.remove(&user.pid);
        // It has ended.
        if error.raw_os_error() == Some(libc::ESRCH) {
            return Ok(false);
        }
        return Err(Error::Kernel {
            context: format!("cannot stop process {} ({})", user.pid, user.name()),
            reason: error.to_string(),
        });
    }
    Ok(true)
}

/// A descriptor of the very process, not of another one that has got its number.
fn open(user: &User) -> io::Result<std::os::fd::OwnedFd> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    let pid = Pid::from_raw(user.pid as i32).ok_or_else(gone)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    if !lives(user) {
        return Err(gone());
    }
    Ok(process)
}

/// Whether it is still the same process.
fn lives(user: &User) -> bool {
    started(user.pid) == Some(user.started / TICK)
}

/// Waits until all threads of the processes have stopped, or ended; returns those that have not in time.
pub(crate) async fn wait_until_stopped<'a>(users: &[&'a User], deadline: Instant) -> Vec<&'a User> {
    let mut waiting = users.to_vec();
    loop {
        waiting.retain(|user| lives(user) && !stands_still(user.pid));
        if waiting.is_empty() || Instant::now() >= deadline {
            return waiting;
        }
        sleep(LOOK).await;
    }
}

/// Stops a process by SIGSTOP and continues it at once: whatever it was in the middle of in the kernel is over then.
///
/// Returns whether it has stopped in time. If nobody waits for that any more, it is continued at the thaw.
pub(crate) async fn stop_for_a_moment(
    controls: &mut Controls,
    others: &Others,
    user: &User,
    deadline: Instant,
) -> Result<bool, Error> {
    if is_stopped(user.pid) || !stop(controls, others, user)? {
        return Ok(true);
    }
    let stopped = wait_until_stopped(&[user], deadline).await.is_empty();
    if let Ok(held) = controls.held.get(&user.pid, 0) {
        let_go(user.pid, &held, others);
        let _ = controls.held.remove(&user.pid);
    }
    Ok(stopped)
}
