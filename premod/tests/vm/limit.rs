//! A test that waits for ever costs its own verdict, and not those of all that come after it.

use std::{
    fs,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::freeze::process;

/// Many times what the longest test takes on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(600);
/// How long a test is given to notice that whatever it waits for is gone.
const GRACE: Duration = Duration::from_secs(60);

/// Why a test is over that has not come to its end.
pub(crate) fn reason() -> String {
    format!("it did not end within {} s", LIMIT.as_secs())
}

/// Runs a test. After [`LIMIT`] it kills whatever the test may be waiting for, so that it fails by itself; if even that does
/// not help, `give_up` has to end the process. Returns whether the test came to its end in time.
pub(crate) fn run_within(run: impl FnOnce(), give_up: impl FnOnce() + Send) -> bool {
    let (ended, has_ended) = channel::<()>();
    thread::scope(|scope| {
        let watchdog = scope.spawn(move || {
            let is_over = |limit| has_ended.recv_timeout(limit) != Err(RecvTimeoutError::Timeout);
            if is_over(LIMIT) {
                return true;
            }
            kill_others();
            if !is_over(GRACE) {
                give_up();
            }
            false
        });
        run();
        drop(ended);
        watchdog.join().unwrap_or(false)
    })
}

/// Kills all processes that are younger than this one: the guest has no others that the tests have not started.
fn kill_others() {
    let own = std::process::id();
    let Some(born) = started(own) else {
        return;
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if pid != own && started(pid).is_some_and(|other| other >= born) {
            // It may have ended by itself, and a thread of the kernel's does not mind.
            let _ = Pid::from_raw(pid.cast_signed()).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}

/// When a process was started, in clock ticks since boot: field 22 of proc_pid_stat(5).
fn started(pid: u32) -> Option<u64> {
    process::fields(pid)?.split(' ').nth(19)?.parse().ok()
}
