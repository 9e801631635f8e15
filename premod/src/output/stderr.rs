//! What premod says on stderr, which may be a terminal that somebody has stopped: nobody waits for it.

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::writer::{Sink, Writer};

/// Lines that found no room, since the last one that did.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// The writer; none if there can be no thread.
fn writer() -> Option<&'static Writer> {
    static WRITER: OnceLock<Option<Writer>> = OnceLock::new();
    WRITER
        .get_or_init(|| Writer::start(Sink::Stderr).ok())
        .as_ref()
}

/// Says whole lines, in one write, so that nobody else's output comes in between. That nobody listens any more does
/// no harm.
pub fn say(lines: &str) {
    let Some(writer) = writer() else {
        let _ = io::stderr().write_all(lines.as_bytes());
        return;
    };
    if !writer.has_room() {
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let left_out = LEFT_OUT.swap(0, Ordering::Relaxed);
    if left_out > 0 {
        let note = format!("premod: {left_out} lines are missing here: stderr stood still\n");
        writer.push(note.as_bytes());
    }
    writer.push(lines.as_bytes());
}

/// Waits until everything is said, but not for somebody who stands still.
pub async fn settled() {
    if let Some(writer) = writer() {
        writer.drained_unless_still().await;
    }
}

/// Says what the `tracing` crate has to tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        say(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
