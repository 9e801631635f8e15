//! Connects the user's terminal with the one in the guest.

use std::{
    io::Read as _,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use premod_guest::Frame;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    stdio::{stdin, stdout},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr},
};

/// Ends the guest from the keyboard, because Ctrl-C belongs to the guest: Ctrl-].
const ESCAPE: u8 = 0x1d;

/// Whether the user has ended the guest from the keyboard.
static ESCAPED: AtomicBool = AtomicBool::new(false);

pub(crate) fn escaped() -> bool {
    ESCAPED.load(Ordering::Relaxed)
}

/// Whether a person sits at both ends.
pub(crate) fn present() -> bool {
    isatty(stdin()) && isatty(stdout())
}

/// The terminal in raw mode; dropping it restores the mode it had.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Switches to raw mode and sends what is typed, and the window's size, to the guest.
    pub(crate) fn connect(port: &UnixStream) -> Result<Self> {
        let before = tcgetattr(stdin()).context("cannot read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).context("cannot set the terminal's mode")?;
        let restore = Self(before);
        let port = port.try_clone().context("cannot duplicate a socket")?;
        thread::spawn(move || forward(&port));
        Ok(restore)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody left to tell when this fails.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// Runs until the terminal or the guest is gone.
fn forward(port: &UnixStream) {
    let mut size = None;
    let mut buffer = [0; 1024];
    loop {
        // Looking every now and then is enough for a window that changes its size.
        let now = tcgetwinsize(stdout()).ok();
        let now = now.map(|size| (size.ws_row, size.ws_col));
        if let Some((rows, columns)) = now
            && now != size
        {
            size = now;
            if (Frame::Size { rows, columns }).write(port).is_err() {
                return;
            }
        }
        let pause = Timespec::try_from(Duration::from_millis(300)).ok();
        match poll(&mut [PollFd::new(&stdin(), PollFlags::IN)], pause.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => match std::io::stdin().lock().read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(length) if buffer[..length].contains(&ESCAPE) => {
                    // The main loop takes the end of the port for the end of the machine.
                    ESCAPED.store(true, Ordering::Relaxed);
                    drop(port.shutdown(std::net::Shutdown::Both));
                    return;
                }
                Ok(length) => {
                    if Frame::Stdin(buffer[..length].to_vec()).write(port).is_err() {
                        return;
                    }
                }
            },
            Err(_) => return,
        }
    }
}
