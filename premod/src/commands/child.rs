//! The CMD of `premod trace -- CMD` and `premod freeze FILE -- CMD`.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use anyhow::Result;
use rustix::{
    fs::{Access, access},
    process::{Pid, Signal, getpgid, getpgrp, kill_process},
};
use tokio::{
    process::{Child, Command},
    time::sleep,
};

use super::{inherited::Inherited, signals::Signals, witness::Witness};
use crate::exit_code::{ExitCode, Failed};

/// Two signals of a kind that come within this time may be taken for one, as the kernel may do it too.
const MOMENT: Duration = Duration::from_millis(2);

/// What becomes of CMD if what it was to run under is over before it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// It is sent this signal.
    pub signal: Option<Signal>,
    /// It is killed if it has not ended this long after.
    pub kill_after: Option<Duration>,
}

/// CMD, while it runs.
pub(super) struct Running {
    child: Child,
    witness: Witness,
    /// Signals that came to premod alone and were passed on.
    passed_on: u32,
}

/// Looks whether CMD can be run, so that nothing is begun in vain.
///
/// # Errors
/// If it cannot.
pub(super) fn check(command: &[OsString]) -> Result<(), Failed> {
    let Some(program) = command.first() else {
        return Ok(());
    };
    let executable = |path: &Path| match access(path, Access::EXEC_OK) {
        Ok(()) if path.is_dir() => Err(io::ErrorKind::PermissionDenied.into()),
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::from(error)),
    };
    if program.as_bytes().contains(&b'/') {
        return executable(Path::new(program)).map_err(|error| not_run(program, &error));
    }
    // As execvp(3) does it: what is there but may not be executed counts if nothing else is found.
    let mut failure = io::Error::from_raw_os_error(libc::ENOENT);
    let directories = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    for directory in env::split_paths(&directories) {
        match executable(&directory.join(program)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => failure = error,
            Err(_) => {}
        }
    }
    Err(not_run(program, &failure))
}

fn not_run(program: &OsStr, error: &io::Error) -> Failed {
    let code = match error.kind() {
        io::ErrorKind::NotFound => ExitCode::NotFound,
        _ => ExitCode::NotExecutable,
    };
    let sentence = format!("cannot run {}: {error}", program.to_string_lossy());
    Failed { code, sentence }
}

/// Starts CMD with premod's own stdin, stdout and stderr, and with the limits that premod was given. If premod's
/// stdout carries data, what CMD writes to its own goes to stderr.
///
/// # Errors
/// If it cannot be run.
pub(super) fn start(
    command: &[OsString],
    stdout_is_data: bool,
    inherited: &Inherited,
) -> Result<Option<Running>> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(None);
    };
    let witness = Witness::start().map_err(|error| Failed {
        code: ExitCode::Failure,
        sentence: format!(
            "there can be no process beside CMD, which tells whose signals are whose: {error}"
        ),
    })?;
    let mut child = Command::new(program);
    child.args(arguments);
    if stdout_is_data {
        child.stdout(io::stderr().as_fd().try_clone_to_owned()?);
    }
    let inherited = inherited.clone();
    // SAFETY: the closure makes system calls and touches no memory of the parent.
    unsafe { child.pre_exec(move || inherited.restore()) };
    match child.spawn() {
        Ok(child) => Ok(Some(Running {
            child,
            witness,
            passed_on: 0,
        })),
        Err(error) => Err(not_run(program, &error).into()),
    }
}

/// Waits for CMD; for ever, if there is none. Returns its status as a shell would.
pub(super) async fn ended(command: &mut Option<Running>) -> io::Result<u8> {
    match command {
        Some(running) => running.ended().await,
        None => std::future::pending().await,
    }
}

/// A signal has come; whether premod has to obey it. If there is a CMD, it is CMD's.
pub(super) async fn signalled(
    command: &mut Option<Running>,
    signal: Signal,
    signals: &mut Signals,
) -> bool {
    match command {
        Some(running) => running.signalled(signal, signals).await,
        None => true,
    }
}

/// As a shell reports it: the exit status, or 128 and the signal.
pub(super) fn status(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    code.try_into().unwrap_or(1)
}

impl Running {
    /// Its process id; `None` if it has ended and been waited for.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    async fn ended(&mut self) -> io::Result<u8> {
        self.child.wait().await.map(status)
    }

    /// A signal that came to the whole process group has reached CMD already, one that came to premod alone is
    /// passed on. Whether it is the second such, which is premod's too.
    async fn signalled(&mut self, signal: Signal, signals: &mut Signals) -> bool {
        let Some(pid) = self.pid() else {
            return false;
        };
        let is_in_our_group = getpgid(Some(pid)).is_ok_and(|group| group == getpgrp());
        if self.witness.saw(signal) && is_in_our_group {
            // If it came once more before the witness was asked, that was part of its answer.
            loop {
                sleep(MOMENT).await;
                if !signals.came_again(signal).await {
                    return false;
                }
                self.witness.saw(signal);
            }
        }
        self.send(signal);
        self.passed_on += 1;
        self.passed_on > 1
    }

    /// What it was to run under (`what`) is over: ends it if that was asked for, and waits for it.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub(super) async fn outlive(
        mut self,
        what: &str,
        ending: Ending,
        signals: &mut Signals,
    ) -> Result<u8> {
        let Some(id) = self.id() else {
            return Ok(self.ended().await?);
        };
        match ending.signal {
            Some(signal) => {
                say!("premod: the {what} is over before CMD ({id}) is: it is told to end");
                self.send(signal);
                // One that is stopped could not obey.
                self.send(Signal::CONT);
            }
            None => say!(
                "premod: the {what} is over before CMD ({id}) is: it goes on without, and premod waits for it; --signal would end it"
            ),
        }
        let kill = async {
            match ending.kill_after {
                Some(time) => sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(kill);
        let mut killed = false;
        loop {
            tokio::select! {
                ended = self.child.wait() => return Ok(status(ended?)),
                signal = signals.next() => {
                    self.signalled(signal, signals).await;
                }
                () = &mut kill, if !killed => {
                    self.send(Signal::KILL);
                    killed = true;
                }
            }
        }
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.id()?.try_into().ok()?)
    }

    fn send(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // If it is gone already there is nobody to tell.
            let _ = kill_process(pid, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_run_is_known_beforehand() {
        let checked = |program: &str| check(&[program.into()]).map_err(|failed| failed.code);
        assert_eq!(checked("sh"), Ok(()));
        assert_eq!(checked("/bin/sh"), Ok(()));
        assert_eq!(check(&[]).map_err(|failed| failed.code), Ok(()));
        assert_eq!(checked("/no/such/program"), Err(ExitCode::NotFound));
        assert_eq!(checked("no-such-program"), Err(ExitCode::NotFound));
        assert_eq!(checked("/dev"), Err(ExitCode::NotExecutable));
        assert_eq!(checked("/dev/null"), Err(ExitCode::NotExecutable));
    }
}
