//! Runs the host's command and relays its output.
//!
//! The command writes to pipes, not to the port itself: a port can be opened once only, and
//! programs open /dev/stderr again.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use premod_guest::{Frame, HOME};
use rustix::{
    process::{Signal, WaitOptions, WaitStatus, wait},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::port::Port;

/// How long the last output may take to arrive after every process is gone.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Runs the command to its end and returns its status as a shell would tell it.
pub(crate) fn run(port: &'static Port) -> Result<u8> {
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(crate::instruction("command")?)
        .current_dir(HOME)
        .env_clear();
    for variable in crate::instruction("environment")?.split_terminator('\0') {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    let terminal = Path::new(premod_guest::INSTRUCTIONS)
        .join("terminal")
        .exists();
    // The threads are detached: one that never ends must not keep the machine alive.
    let (done, all_done) = mpsc::channel::<()>();
    let relay = |from: File, frame: fn(Vec<u8>) -> Frame| {
        let done = done.clone();
        thread::spawn(move || {
            relay(from, frame, port);
            drop(done);
        });
    };
    let child = if terminal {
        let (controller, pty) = open_terminal(&mut command)?;
        relay(
            controller
                .try_clone()
                .context("cannot duplicate the terminal")?,
            Frame::Stdout,
        );
        thread::spawn(move || feed(&controller, port));
        let child = command.spawn().context("cannot start /bin/sh")?;
        drop(pty);
        child
    } else {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        own_session(&mut command, false);
        let mut child = command.spawn().context("cannot start /bin/sh")?;
        if let Some(stdout) = child.stdout.take() {
            relay(File::from(OwnedFd::from(stdout)), Frame::Stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            relay(File::from(OwnedFd::from(stderr)), Frame::Stderr);
        }
        child
    };
    // It holds our copies of the terminal, which would keep the relay waiting.
    drop(command);
    let status = reap_until(child.id())?;
    end_all_processes();
    drop(done);
    // Nobody sends: this returns when the last relay is gone, or at the limit.
    if all_done.recv_timeout(DRAIN_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
        crate::log("premod-guest: the command's output did not end with it");
    }
    Ok(status)
}

/// Gives the command a session of its own, and its stdin as the controlling terminal.
fn own_session(command: &mut Command, controlling: bool) {
    let start = move || {
        rustix::process::setsid()?;
        if controlling {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        Ok(())
    };
    // SAFETY: setsid and an ioctl are all that runs between fork and exec; both are plain system
    // calls.
    unsafe { command.pre_exec(start) };
}

/// Makes a terminal for the command; returns its controlling side, and the other one, which must
/// stay open until the command has it.
fn open_terminal(command: &mut Command) -> Result<(File, OwnedFd)> {
    let controller =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("cannot open a pty")?;
    grantpt(&controller).context("grantpt")?;
    unlockpt(&controller).context("unlockpt")?;
    let name = ptsname(&controller, Vec::new()).context("ptsname")?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let pty = rustix::fs::open(&name, flags, rustix::fs::Mode::empty());
    let pty = pty.with_context(|| format!("cannot open {}", name.to_string_lossy()))?;
    let copy = || pty.try_clone().context("cannot duplicate the terminal");
    command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
    own_session(command, true);
    Ok((File::from(controller), pty))
}

/// Sends what can be read from `from` to the host until its end.
fn relay(mut from: File, frame: fn(Vec<u8>) -> Frame, port: &Port) {
    let mut buffer = vec![0; 1 << 15];
    loop {
        match from.read(&mut buffer) {
            // A terminal's controlling side says EIO once the last program has closed it.
            Ok(0) => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
            Ok(length) => {
                if let Err(error) = port.send(&frame(buffer[..length].to_vec())) {
                    crate::log(&format!("premod-guest: {error:#}"));
                    return;
                }
            }
        }
    }
}

/// Hands what the host's user types to the command's terminal.
fn feed(mut controller: &File, port: &Port) {
    while let Ok(Some(frame)) = port.receive() {
        match frame {
            Frame::Stdin(bytes) if controller.write_all(&bytes).is_err() => return,
            Frame::Size { rows, columns } => {
                let size = Winsize {
                    ws_row: rows,
                    ws_col: columns,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                // A wrong size is a nuisance and no reason to end the command.
                let _ = tcsetwinsize(controller.as_fd(), size);
            }
            _ => {}
        }
    }
}

/// Collects ended processes, as a first process must, until `child` is among them.
fn reap_until(child: u32) -> Result<u8> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().unsigned_abs() == child => {
                return Ok(as_shell_status(status));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the command"),
        }
    }
}

/// The status as a shell shows it: 128 and the signal for a command that a signal ended.
fn as_shell_status(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(code).unwrap_or(255)
}

/// Kills whatever the command left running, so that the pipes end and the disks can be unmounted.
fn end_all_processes() {
    for _ in 0..100 {
        // SAFETY: kill touches no memory; -1 means every process but this first one.
        unsafe { libc::kill(-1, Signal::KILL.as_raw()) };
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    crate::log("premod-guest: some processes could not be ended");
}
