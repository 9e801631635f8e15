//! Tracing as a library: [`Tracer`] loads the programs and yields the stream of [`Record`]s.

mod builder;

use std::{
    collections::VecDeque,
    convert::Infallible,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray, RingBuf},
};
use futures_core::Stream;
use premod_common::{
    counters::Counters,
    event::{FirstDirtyRecord, Item},
};
use tokio::{io::unix::AsyncFd, time::Interval};

pub use self::builder::{DEFAULT_BUFFER_SIZE, DEFAULT_PERIOD, TracerBuilder};
use crate::{
    cgroups::Cgroups,
    events::{Clocks, Decoder, Duplicates, Losses, Lost, PathChange, Record},
    kernel::{attach::Attachment, enrol::Enroller},
    scope::{Scope, Unseen},
};

/// How often the loss counters are looked at while nothing else happens.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Every how many looks the kernel is asked for skipped programs, which costs a system call per program.
const LOOKS_PER_SKIP_CHECK: u32 = 5;

/// Every how many looks the kernel is asked for both while no events come: what finds the ring buffer full has events
/// before it, which are read first.
const LOOKS_WHEN_IDLE: u32 = 10;

/// How many records are decoded before the reader gets its turn: so few that they stay in the CPU's cache.
const BATCH: usize = 128;

/// How many batches a ring buffer of this many bytes holds at most.
fn batches_in(ring: u32) -> usize {
    (ring as usize / FirstDirtyRecord::SIZE).div_ceil(BATCH)
}

/// What happened in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// First-dirty events yielded.
    pub events: u64,
    /// Announcements that were lost: full buffer, or a program that the kernel skipped.
    pub lost: u64,
    /// Lost ones among them that a later touch announced after all.
    pub retried: u64,
    /// Events that came during or after the modification.
    pub late: u64,
    /// Touches announced without tracking, because there was no room for the inode.
    pub untracked: u64,
    /// Times that premod gave up to keep track of a file, because several tasks changed it at the same moment: it was
    /// announced without tracking, or its next period may be taken for the same.
    pub contended: u64,
    /// Events whose directory was not known, so that their path is the file's own name.
    pub unplaced: u64,
    /// Events of files of which could not be decided whether they are below a path that is traced.
    pub undecided: u64,
}

/// A running trace: a stream of [`Record`]s.
///
/// Dropping it detaches everything, which takes the kernel a tenth of a second for each program.
pub struct Tracer {
    ebpf: Ebpf,
    /// Where kprobes find the program that they call: the kernel empties it when nobody has it open.
    _called: Option<ProgramArray<MapData>>,
    enroller: Enroller,
    scope: Option<Scope>,
    cgroups: Cgroups,
    attached: Vec<Attachment>,
    bpf_lsm: bool,
    events: AsyncFd<RingBuf<MapData>>,
    losses: Losses,
    look: Interval,
    looks: u32,
    /// `seq` at the last look.
    seq_seen: u64,
    duplicates: Duplicates,
    decoder: Decoder,
    pending: VecDeque<Record>,
    /// The ring buffer may hold more than the last batch.
    more_in_ring: bool,
    /// How many batches the ring buffer holds at most.
    batches_in_ring: usize,
    seq: u64,
    summary: Summary,
    stopped: bool,
}

impl Tracer {
    /// Begins to describe a trace.
    #[must_use]
    pub fn builder() -> TracerBuilder {
        TracerBuilder::new()
    }

    /// The next record; `None` when the trace was stopped and everything has been yielded.
    pub async fn next(&mut self) -> Option<Record> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The next record, if it has been decoded already: the rest of a batch, without the cost of a wait.
    pub fn next_of_batch(&mut self) -> Option<Record> {
        self.pending.pop_front()
    }

    /// Keeps an eye on the PATHs while the caller has no use for records. Never returns.
    pub(crate) async fn tend(&mut self) -> Infallible {
        loop {
            self.look.tick().await;
            self.look_at_paths();
            self.cgroups.look();
        }
    }

    /// The paths that do not lead anywhere now.
    pub fn missing(&self) -> impl Iterator<Item = &Path> {
        self.scope.iter().flat_map(Scope::missing)
    }

    /// Places below the paths whose changes are not seen, because of what was mounted there when the trace began.
    #[must_use]
    pub fn unseen(&self) -> &[Unseen] {
        self.scope.as_ref().map_or(&[], Scope::unseen)
    }

    /// Whether the next record is there already, so that [`Tracer::next`] would not wait.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.pending.is_empty() || self.more_in_ring
    }

    /// Ends the trace. What has been announced up to now is still yielded, then the stream ends.
    pub fn stop(&mut self) {
        if self.stopped {
            return;
        }
        self.stopped = true;
        // As many as the ring buffer holds: others may go on filling it.
        for _ in 0..self.batches_in_ring {
            if self.read_ring() < BATCH {
                break;
            }
        }
        self.note_losses(true);
        self.summary = self.counted();
    }

    /// What happened so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        if self.stopped {
            self.summary
        } else {
            self.counted()
        }
    }

    fn counted(&self) -> Summary {
        let Counters {
            retried,
            late,
            untracked,
            contended,
            ..
        } = self.losses.total();
        Summary {
            retried,
            late,
            untracked,
            contended,
            unplaced: self.decoder.unplaced(),
            ..self.summary
        }
    }

    /// How each hook hangs in the kernel.
    #[must_use]
    pub fn attachments(&self) -> &[Attachment] {
        &self.attached
    }

    /// Whether the hooks that could deny are LSM hooks; otherwise tracing works, freezing would not.
    #[must_use]
    pub fn uses_lsm(&self) -> bool {
        self.bpf_lsm
    }

    /// The object, for the logger of its messages.
    pub(crate) fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Decodes at most a batch; returns how many records there were.
    fn read_ring(&mut self) -> usize {
        let clocks = Clocks::now();
        for read in 0..BATCH {
            let Some(item) = self.events.get_mut().next() else {
                return read;
            };
            let (record, names) = match Item::decode(&item) {
                Some(Item::FirstDirty(record, names)) => (record, names),
                Some(Item::Directory(record, names)) => {
                    self.decoder.directory(&record, names);
                    continue;
                }
                None => {
                    self.losses.malformed();
                    continue;
                }
            };
            if self.duplicates.is_duplicate(&record) {
                continue;
            }
            let mut event = self.decoder.first_dirty(&record, names, &clocks);
            drop(item);
            self.seq += 1;
            event.seq = self.seq;
            self.cgroups.decide(&mut event);
            self.summary.events += 1;
            self.summary.undecided += u64::from(event.path.undecided);
            self.pending.push_back(Record::FirstDirty(event));
        }
        BATCH
    }

    /// Reports what was lost since the last look.
    fn note_losses(&mut self, skipped_too: bool) {
        let mut losses = self.losses.noticed();
        if skipped_too {
            losses.extend(self.losses.skipped());
        }
        let Clocks { real, mono } = Clocks::now();
        for loss in losses {
            self.seq += 1;
            self.summary.lost += loss.count;
            self.pending.push_back(Record::Lost(Lost {
                seq: self.seq,
                timestamp: real,
                mono,
                count: loss.count,
                cpu: loss.cpu,
                reason: loss.reason,
            }));
        }
    }

    fn look_around(&mut self) {
        self.looks = self.looks.wrapping_add(1);
        let idle = std::mem::replace(&mut self.seq_seen, self.seq) == self.seq;
        if !idle {
            self.note_losses(self.looks.is_multiple_of(LOOKS_PER_SKIP_CHECK));
        } else if self.looks.is_multiple_of(LOOKS_WHEN_IDLE) {
            self.note_losses(true);
        }
        self.look_at_paths();
        self.cgroups.look();
    }

    /// Looks whether the PATHs still lead to what they led to.
    fn look_at_paths(&mut self) {
        let Some(scope) = &mut self.scope else {
            return;
        };
        let counted = self.losses.total();
        let changes = scope
            .look(&mut self.enroller, &counted)
            .unwrap_or_else(|error| {
                tracing::warn!("what has changed just now may not be traced: {error}");
                Vec::new()
            });
        if changes.is_empty() {
            return;
        }
        let Clocks { real, mono } = Clocks::now();
        for (path, change) in changes {
            self.seq += 1;
            self.pending.push_back(Record::Path(PathChange {
                seq: self.seq,
                timestamp: real,
                mono,
                path,
                change,
            }));
        }
    }
}

impl Stream for Tracer {
    type Item = Record;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Record>> {
        loop {
            if let Some(record) = self.pending.pop_front() {
                return Poll::Ready(Some(record));
            }
            if self.stopped {
                return Poll::Ready(None);
            }
            if self.more_in_ring {
                self.more_in_ring = self.read_ring() == BATCH;
                continue;
            }
            if self.look.poll_tick(context).is_ready() {
                self.look_around();
                continue;
            }
            let Poll::Ready(ready) = self.events.poll_read_ready_mut(context) else {
                return Poll::Pending;
            };
            // The only error is a runtime that is shutting down.
            let Ok(mut ready) = ready else {
                return Poll::Ready(None);
            };
            // Cleared before reading, so that what comes in between wakes us again.
            ready.clear_ready();
            drop(ready);
            self.more_in_ring = true;
        }
    }
}
