//! The CMD of `premod trace -- CMD`.

use std::{
    ffi::OsString,
    io,
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::ExitStatus,
};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::exit_code::{ExitCode, Failed};

/// Starts CMD with premod's own stdin, stdout and stderr. If premod's stdout carries events, what CMD
/// writes to its own goes to stderr.
pub(super) fn start(command: &[OsString], stdout_is_data: bool) -> Result<Option<Child>> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(None);
    };
    let mut child = Command::new(program);
    child.args(arguments);
    if stdout_is_data {
        child.stdout(io::stderr().as_fd().try_clone_to_owned()?);
    }
    child.spawn().map(Some).map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound {
            ExitCode::NotFound
        } else {
            ExitCode::NotExecutable
        };
        let sentence = format!("cannot run {}: {error}", program.to_string_lossy());
        Failed { code, sentence }.into()
    })
}

/// As a shell reports it: the exit status, or 128 and the signal.
pub(super) fn status(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    code.try_into().unwrap_or(1)
}

/// Passes a signal on to CMD.
pub(super) fn send(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id as i32)) {
        // If it is gone already there is nobody to tell.
        let _ = kill_process(pid, signal);
    }
}

/// Waits for CMD; for ever, if there is none.
pub(super) async fn ended(command: &mut Option<Child>) -> io::Result<ExitStatus> {
    match command {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}
