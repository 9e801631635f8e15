//! SIGHUP, SIGINT, SIGQUIT and SIGTERM.

use std::{future::poll_fn, task::Poll};

use anyhow::Result;
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

use super::inherited::is_ignored;

/// The signals that end a command.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// Those of them that this process listens to. What it ignores stays ignored: SIGHUP under nohup.
pub(super) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the kernel does not allow it.
    pub(super) fn listen() -> Result<Self> {
        let wanted = ENDING.iter().filter(|one| !is_ignored(one.as_raw()));
        let heard = wanted.map(|&one| Ok((one, signal(SignalKind::from_raw(one.as_raw()))?)));
        heard.collect::<Result<_>>().map(Self)
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (number, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Whether this one has come again; it is taken then.
    pub(super) async fn came_again(&mut self, signal: Signal) -> bool {
        poll_fn(|context| {
            let stream = self.0.iter_mut().find(|(number, _)| *number == signal);
            Poll::Ready(stream.is_some_and(|(_, stream)| stream.poll_recv(context).is_ready()))
        })
        .await
    }
}
