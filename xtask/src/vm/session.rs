//! Follows one run of the guest from its start to its end.

use std::{
    io::{self, BufRead as _, BufReader},
    os::unix::net::UnixStream,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use premod_guest::{END_OF_LOG, FAILED, Frame};

use super::{console::Console, qemu::Qemu, terminal};

/// How long the guest may take until it starts the command.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// How long the last lines of the console may take to arrive after the exit status.
const LOG_LIMIT: Duration = Duration::from_secs(5);

/// How long one channel may outlive the other.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Who gets the command's output.
pub(crate) trait Sink {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command ended with this status, and the kernel had nothing to complain about.
    Exited(u8),
    /// The kernel complained; its first line.
    Complaint(String),
    /// The time was up, during the phase that is named.
    Timeout(&'static str),
    /// The machine ended by itself, or its first process gave up.
    Failed(String),
    /// Nobody reads the command's output any more, or the user has left.
    Unread,
}

enum Event {
    Frame(Frame),
    Line(String),
    PortEnd,
    ConsoleEnd,
}

/// What the main loop knows.
struct Progress {
    started: Option<Duration>,
    exit: Option<u8>,
    log_complete: bool,
    failed: Option<String>,
}

/// Follows `qemu` until the command and the console's log have ended, or `limit` is over.
/// Returns the outcome and how long the boot took.
pub(crate) fn follow(
    qemu: &mut Qemu,
    console: &mut Console,
    sink: &mut dyn Sink,
    limit: Option<Duration>,
) -> Result<(Outcome, Option<Duration>)> {
    let events = listen(qemu)?;
    let start = Instant::now();
    let mut progress = Progress {
        started: None,
        exit: None,
        log_complete: false,
        failed: None,
    };
    let mut ends = 0;
    let mut deadline = limit.map_or(BOOT_LIMIT, |limit| limit.min(BOOT_LIMIT));
    let outcome = loop {
        if let Some(status) = progress.exit
            && progress.log_complete
        {
            break Outcome::Exited(status);
        }
        let event = events.recv_timeout(deadline.saturating_sub(start.elapsed()));
        match event {
            Ok(Event::Line(line)) => {
                console.line(&line);
                progress.log_complete |= line.contains(END_OF_LOG);
                if let Some((_, reason)) = line.split_once(FAILED) {
                    progress.failed = Some(reason.to_owned());
                }
            }
            Ok(Event::Frame(frame)) => {
                let written = match &frame {
                    Frame::Stdout(bytes) => sink.stdout(bytes),
                    Frame::Stderr(bytes) => sink.stderr(bytes),
                    _ => Ok(()),
                };
                match written {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        break Outcome::Unread;
                    }
                    written => written.context("cannot write the command's output")?,
                }
                match frame {
                    Frame::Started => {
                        progress.started = Some(start.elapsed());
                        deadline = limit.unwrap_or(Duration::MAX);
                    }
                    Frame::Exit(status) => {
                        progress.exit = Some(status);
                        deadline = start.elapsed() + LOG_LIMIT;
                    }
                    _ => {}
                }
            }
            Ok(Event::PortEnd | Event::ConsoleEnd) => {
                ends += 1;
                deadline = deadline.min(start.elapsed() + END_LIMIT);
                // Both channels end when QEMU does; what they held has been read by then.
                if ends == 2 {
                    break match progress {
                        Progress {
                            exit: Some(status), ..
                        } => Outcome::Exited(status),
                        Progress {
                            failed: Some(reason),
                            ..
                        } => Outcome::Failed(reason),
                        _ => Outcome::Failed("the machine ended before the command".to_owned()),
                    };
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                break match (progress.exit, progress.started) {
                    // The end of the log was filtered by a console log level of the user's.
                    (Some(status), _) => Outcome::Exited(status),
                    _ if terminal::escaped() => Outcome::Unread,
                    _ if ends > 0 => Outcome::Failed("the connection to it was closed".to_owned()),
                    (None, Some(_)) => Outcome::Timeout("while the command ran"),
                    (None, None) => Outcome::Timeout("before the command started"),
                };
            }
            Err(RecvTimeoutError::Disconnected) => {
                break Outcome::Failed("the channels to the machine broke".to_owned());
            }
        }
    };
    qemu.end();
    // What the kernel said weighs more than how the command ended.
    let outcome = match console.complaint() {
        Some(complaint) if outcome != Outcome::Unread => Outcome::Complaint(complaint.to_owned()),
        _ => outcome,
    };
    Ok((outcome, progress.started))
}

/// Reads both channels in threads of their own.
fn listen(qemu: &Qemu) -> Result<mpsc::Receiver<Event>> {
    // Bounded, so that a command that writes without end is held up by whoever reads it.
    let (sender, events) = mpsc::sync_channel(64);
    let clone = |stream: &UnixStream| stream.try_clone().context("cannot duplicate a socket");
    let (port, console) = (clone(&qemu.port)?, clone(&qemu.console)?);
    let to_port = sender.clone();
    thread::spawn(move || {
        let mut port = BufReader::new(port);
        while let Ok(Some(frame)) = Frame::read(&mut port) {
            if to_port.send(Event::Frame(frame)).is_err() {
                return;
            }
        }
        drop(to_port.send(Event::PortEnd));
    });
    thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches(['\r', '\n'])
                .to_owned();
            if sender.send(Event::Line(text)).is_err() {
                return;
            }
            line.clear();
        }
        drop(sender.send(Event::ConsoleEnd));
    });
    Ok(events)
}
