//! Writing without waiting: a thread of its own writes, and its queue has an end.
//!
//! Whoever reads a pipe or a terminal may stand still for as long as he likes. Only the thread waits for him
//! then. Making the descriptor non-blocking instead would make it so for everybody who shares it: the shell, CMD,
//! the next program in the pipe.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use bytes::{Buf, Bytes};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::FileType,
    io::Errno,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::OutputError;
use crate::kernel::caps::drop_all;

/// When the queue holds this many bytes, it has no room for more.
const ROOM: usize = 1 << 20;

/// A reader who takes nothing for this long stands still.
pub(crate) const STILL: Duration = Duration::from_secs(1);

/// The longest wait for a slow reader once premod has been told to end.
const LONGEST: Duration = Duration::from_secs(10);

/// The most that a pipe takes whole or not at all (`PIPE_BUF`).
const ATOMIC: usize = 4096;

/// A queue of whole lines, and the thread that writes them.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct Queue {
    /// What is not written yet; the first may have been begun.
    chunks: VecDeque<Bytes>,
    /// Nothing more comes.
    closed: bool,
    error: Option<io::Error>,
}

/// How far the thread is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Bytes that are not written yet.
    queued: usize,
    /// Bytes that were written.
    written: u64,
    failed: bool,
}

/// Where a writer writes.
pub(crate) enum Sink {
    /// Standard output of this process, whatever that is at the time.
    Stdout,
    /// The same of standard error.
    Stderr,
    /// A file that was opened.
    File(File),
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdout => rustix::stdio::stdout(),
            Self::Stderr => rustix::stdio::stderr(),
            Self::File(file) => file.as_fd(),
        }
    }
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(crate) fn start(sink: Sink) -> io::Result<Self> {
        let (sender, progress) = watch::channel(Progress::default());
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            progress: sender,
        });
        let threads = Arc::clone(&shared);
        thread::Builder::new()
            .name("premod-writer".to_owned())
            .spawn(move || threads.run(&sink))?;
        Ok(Self { shared, progress })
    }

    /// Adds whole lines. Never waits; whoever has much to say asks for room first.
    pub(crate) fn push(&self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let mut queue = self.shared.lock();
        if self.shared.progress.borrow().failed {
            return;
        }
        queue.chunks.push_back(Bytes::copy_from_slice(lines));
        self.shared
            .progress
            .send_modify(|progress| progress.queued += lines.len());
        drop(queue);
        self.shared.work.notify_one();
    }

    /// Whether the queue has room.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.progress.borrow().queued < ROOM
    }

    /// Waits until something cannot be written, or, for one who has found no room, until there is some.
    pub(crate) async fn stirred(&self, found_room: bool) {
        self.until(|progress| progress.failed || (!found_room && progress.queued < ROOM))
            .await;
    }

    /// Whether nothing more can be written.
    pub(crate) fn has_failed(&self) -> bool {
        self.progress.borrow().failed
    }

    /// Why nothing more can be written, once.
    pub(crate) fn error(&self) -> Option<io::Error> {
        self.shared.lock().error.take()
    }

    /// Waits until everything is written, or cannot be.
    pub(crate) async fn drained(&self) {
        self.until(|progress| progress.failed || progress.queued == 0)
            .await;
    }

    async fn until(&self, holds: impl FnMut(&Progress) -> bool) {
        // It cannot fail: the sender lives as long as this.
        let _ = self.progress.clone().wait_for(holds).await;
    }

    /// The same, but not for a reader who stands still.
    pub(crate) async fn drained_unless_still(&self) -> bool {
        let began = Instant::now();
        loop {
            let before = self.progress.borrow().written;
            if timeout(STILL, self.drained()).await.is_ok() {
                return true;
            }
            if self.progress.borrow().written == before || began.elapsed() > LONGEST {
                return false;
            }
        }
    }

    /// Gives up what is not written; how many lines that is.
    pub(crate) fn give_up(&self) -> u64 {
        let mut queue = self.shared.lock();
        let left = queue.chunks.drain(..);
        left.map(|chunk| lines(&chunk)).sum()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        // It may be waiting for a reader: nobody waits for it.
        self.shared.work.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn run(&self, sink: &Sink) {
        // Writing takes no privilege, and what premod gives up later would stay with this thread.
        let _ = drop_all();
        let in_pieces = rustix::fs::fstat(sink)
            .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Fifo);
        let mut open = 0;
        while let Some(chunk) = self.next() {
            let size = if in_pieces {
                piece(&chunk)
            } else {
                chunk.len()
            };
            match write(sink, &chunk[..size]) {
                Ok(written) => {
                    open = match chunk[..written].iter().rposition(|&byte| byte == b'\n') {
                        Some(end) => written - end - 1,
                        None => open + written,
                    };
                    self.advance(written);
                }
                Err(error) => {
                    take_back(sink, open);
                    return self.fail(error);
                }
            }
        }
    }

    /// What is to be written next; `None` if nothing more comes.
    fn next(&self) -> Option<Bytes> {
        let mut queue = self.lock();
        loop {
            if let Some(chunk) = queue.chunks.front() {
                return Some(chunk.clone());
            }
            if queue.closed {
                return None;
            }
            let waited = self.work.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn advance(&self, written: usize) {
        let mut queue = self.lock();
        // It is gone if it has been given up.
        if let Some(chunk) = queue.chunks.front_mut() {
            chunk.advance(written.min(chunk.len()));
            if chunk.is_empty() {
                queue.chunks.pop_front();
            }
        }
        self.progress.send_modify(|progress| {
            progress.queued -= written.min(progress.queued);
            progress.written += written as u64;
        });
    }

    fn fail(&self, error: io::Error) {
        let mut queue = self.lock();
        queue.error = Some(error);
        self.progress.send_modify(|progress| progress.failed = true);
    }
}

/// How much of a chunk goes into a pipe at once: whole lines, so that whoever reads never finds a part of one.
fn piece(chunk: &[u8]) -> usize {
    if chunk.len() <= ATOMIC {
        return chunk.len();
    }
    let end = |part: &[u8]| part.iter().rposition(|&byte| byte == b'\n');
    match end(&chunk[..ATOMIC]) {
        Some(end) => end + 1,
        // A line that is longer: it goes as a whole, for as long as it takes.
        None => chunk
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(chunk.len(), |end| end + 1),
    }
}

/// Takes so many bytes off the end of a file of our own, on a full disk above all: the beginning of a line is none.
fn take_back(sink: &Sink, bytes: usize) {
    if let Sink::File(file) = sink
        && bytes > 0
        && let Ok(end) = rustix::fs::tell(file)
    {
        // It fails for what is no regular file.
        let _ = rustix::fs::ftruncate(file, end.saturating_sub(bytes as u64));
    }
}

fn write(sink: &Sink, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::write(sink, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written),
            Err(Errno::INTR) => {}
            // Somebody who shares the descriptor has made it non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(sink, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Why nothing more can be written, in the words of the output's name.
pub(super) fn explained(source: io::Error, name: &str) -> OutputError {
    match source.kind() {
        io::ErrorKind::BrokenPipe => OutputError::Closed,
        _ => OutputError::Write {
            to: name.to_owned(),
            source,
        },
    }
}

#[cfg(test)]
mod tests;
