//! `premod freeze -f`: the freeze goes on in a process behind the one that returns.

use std::{
    fs::File,
    io::{Read, Write, stderr, stdout},
    os::fd::AsFd,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

/// What the process behind writes to stdout after everything else, when the files are frozen.
const FROZEN: u8 = 0;

/// Runs this command again behind, and waits until the files are frozen or it has failed; returns the exit
/// status. It gets stdin if that is where the files are named.
///
/// # Errors
/// If it cannot be started.
pub(super) fn start(wants_stdin: bool) -> Result<u8> {
    let stdin = match wants_stdin {
        true => Stdio::inherit(),
        false => Stdio::null(),
    };
    let mut behind = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .arg("--behind")
        .current_dir(std::env::current_dir()?)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the process that is to keep the files frozen")?;
    let mut said = Vec::new();
    if let Some(stdout) = &mut behind.stdout {
        stdout.read_to_end(&mut said)?;
    }
    let frozen = said.last() == Some(&FROZEN);
    if frozen {
        said.pop();
    }
    // What it said is data, if there is any.
    let _ = stdout().write_all(&said).and_then(|()| stdout().flush());
    if frozen {
        return Ok(0);
    }
    let status = behind.wait()?;
    Ok(super::child::status(status))
}

/// In the process behind: leaves the terminal, so that nothing that is sent to it ends the freeze.
///
/// # Errors
/// If the kernel does not allow it.
pub(super) fn leave_terminal() -> Result<()> {
    rustix::process::setsid().context("cannot leave the terminal")?;
    Ok(())
}

/// In the process behind: has no use for stdin any more, and keeps nobody from ending it.
///
/// # Errors
/// If there is no /dev/null.
pub(super) fn leave_stdin() -> Result<()> {
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(())
}

/// In the process behind: the files are frozen, nobody listens from here on.
///
/// # Errors
/// If stdout cannot be written.
pub(super) fn is_frozen() -> Result<()> {
    let mut out = stdout();
    out.write_all(&[FROZEN])?;
    out.flush()?;
    let nowhere = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(nowhere.as_fd())?;
    // Whoever waits for the end of stderr must not wait for the thaw.
    let _ = stderr().flush();
    rustix::stdio::dup2_stderr(nowhere.as_fd())?;
    Ok(())
}
