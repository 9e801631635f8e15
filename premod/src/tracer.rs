//! Tracing as a library: [`Tracer`] loads the programs and yields the stream of [`Record`]s.

use std::{
    collections::VecDeque,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError, RingBuf},
    programs::Program,
};
use futures_core::Stream;
use premod_common::{
    counters::Counters, event::FirstDirtyRecord, facts::Settings, inode::TRACKED_MAX,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    error::Error,
    events::{Clocks, Decoder, Duplicates, Losses, Lost, Record, Skippable},
    kernel::{
        attach::{self, Attachment, HOOKS, Hook, Kind},
        btf::Btf,
        caps,
        enrol::{self, Enroller},
        environment::Environment,
        facts, load,
    },
    mounts::Mounts,
    scope::{OVERLAY_MAGIC, Root, Scope},
};

/// Size of the event ring buffer unless asked otherwise, in bytes: room for about 100,000 events.
pub const DEFAULT_BUFFER_SIZE: u32 = 16 << 20;

/// After how long a change that leaves no dirty page counts as written back unless asked otherwise: what
/// the kernel takes for pages (`vm.dirty_expire_centisecs`).
pub const DEFAULT_PERIOD: Duration = Duration::from_secs(30);

/// How often the loss counters are looked at while nothing else happens.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Every how many looks the kernel is asked for skipped programs, which costs a file read per program.
const LOOKS_PER_SKIP_CHECK: u32 = 5;

/// How many records are decoded before the reader gets its turn.
const BATCH: usize = 1024;

/// What is to be traced, and how.
#[derive(Clone, Debug)]
pub struct TracerBuilder {
    paths: Vec<PathBuf>,
    buffer_size: u32,
    period: Duration,
    include_own: bool,
    log_level: load::LogLevel,
}

impl TracerBuilder {
    /// Traces this file, or everything below this directory. Without any path, every regular file on a
    /// filesystem that keeps dirty marks is traced.
    #[must_use]
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.paths.push(path.into());
        self
    }

    /// As [`TracerBuilder::path`], for several.
    #[must_use]
    pub fn paths(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.paths.extend(paths);
        self
    }

    /// Size of the ring buffer in bytes; rounded up to a power of two and at least one page.
    #[must_use]
    pub fn buffer_size(mut self, bytes: u32) -> Self {
        self.buffer_size = bytes;
        self
    }

    /// After how long a change that leaves no dirty page (direct I/O, truncate, punching a hole) counts as
    /// written back, if nobody syncs the file: the next such change is a new period then.
    #[must_use]
    pub fn period(mut self, period: Duration) -> Self {
        self.period = period;
        self
    }

    /// Also reports what this process itself modifies.
    #[must_use]
    pub fn include_own(mut self, include: bool) -> Self {
        self.include_own = include;
        self
    }

    /// Lets the kernel side log: 0 is silence, 4 is debug, 5 is trace. The messages go to the `log` crate.
    #[must_use]
    pub fn log_level(mut self, level: load::LogLevel) -> Self {
        self.log_level = level;
        self
    }

    /// Loads the programs and attaches them. From its return on, nothing is missed.
    ///
    /// Has to be called inside of a tokio runtime with time and I/O enabled.
    ///
    /// # Errors
    /// If the process lacks capabilities, the kernel lacks something or refuses, or a path cannot be
    /// traced.
    pub fn start(self) -> Result<Tracer, Error> {
        let missing = caps::missing();
        if !missing.is_empty() {
            return Err(Error::NotPermitted {
                missing: missing.join(" and "),
            });
        }
        let environment = Environment::gather();
        let release = || environment.release.clone();
        // Before anything is loaded: a wrong PATH is the user's most likely mistake.
        let roots: Vec<Root> = self
            .paths
            .iter()
            .map(|path| Root::open(path))
            .collect::<Result<_, _>>()?;
        let btf = Btf::of_running_kernel().map_err(|source| Error::NoBtf {
            release: release(),
            source,
        })?;
        if environment.lockdown_forbids() {
            return Err(load::refused(&environment, ""));
        }
        let mut table = facts::gather(&btf);
        tracing::debug!("gathered {} facts from BTF", table.list.len());
        let kernel_btf = aya::Btf::from_sys_fs()
            .map_err(|error| Error::kernel("cannot read the kernel's type information", &error))?;
        tracing::debug!("read the kernel's types for the loader");
        let mut enroller = Enroller::load(table.facts, &kernel_btf, &environment)?;
        let learnt = enrol::learn(&mut enroller, &mut table, &self.paths)?;
        if let Some(fact) = table.missing() {
            return Err(Error::KernelLacks {
                release: release(),
                what: format!("{} (looked for in {})", fact.name, fact.source),
                cost: fact.cost.to_owned(),
            });
        }

        tracing::debug!("learnt what BTF does not tell");

        let scoped = !roots.is_empty();
        let setup = load::Setup {
            facts: table.facts,
            settings: Settings {
                nonce: 0,
                untracked_bdi: learnt.untracked_bdi,
                overlay_magic: OVERLAY_MAGIC,
                period: u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX),
                own_pid: learnt.own_pid,
                scoped: scoped.into(),
                include_own: self.include_own.into(),
                padding: 0,
            },
            buffer_size: ring_size(self.buffer_size)?,
            inodes: TRACKED_MAX,
            log_level: self.log_level,
        };
        let mut ebpf = load::object(&setup, &environment)?;
        tracing::debug!("created the maps");
        let scope = if scoped {
            let map = typed(take(&mut ebpf, "SCOPE")?)?;
            let epoch = typed(take(&mut ebpf, "SCOPE_EPOCH")?)?;
            Some((
                Scope::enrol(roots, map, epoch, &mut enroller, &learnt)?,
                Mounts::watch().ok(),
            ))
        } else {
            None
        };
        let ring: RingBuf<MapData> = typed(take(&mut ebpf, "EVENTS")?)?;
        let counters = typed(take(&mut ebpf, "COUNTERS")?)?;

        let mut attached = Vec::new();
        let needed = |hook: &&Hook| hook.when.applies(scoped, &environment);
        for hook in HOOKS.iter().filter(needed) {
            let Some(way) = hook.choose(&btf, &environment) else {
                if hook.essential {
                    return Err(Error::KernelLacks {
                        release: release(),
                        what: format!("the hook {}", hook.ways[0].target),
                        cost: hook.cost.to_owned(),
                    });
                }
                continue;
            };
            attach::attach(&mut ebpf, &kernel_btf, way, &environment)?;
            attached.push(way);
        }
        let losses = Losses::new(counters, skippable(&ebpf, &attached)?);
        // SAFETY: a ring buffer returns the same open descriptor for as long as it lives.
        let events = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| Error::kernel("cannot wait for the ring buffer", &error))?;
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Ok(Tracer {
            ebpf,
            enroller,
            scope,
            attached,
            bpf_lsm: environment.bpf_lsm_is_active(),
            events,
            losses,
            look,
            looks: 0,
            duplicates: Duplicates::default(),
            decoder: Decoder::new(),
            pending: VecDeque::new(),
            more_in_ring: true,
            seq: 0,
            summary: Summary::default(),
            stopped: false,
        })
    }
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
}

/// A running trace: a stream of [`Record`]s.
///
/// Dropping it detaches everything.
pub struct Tracer {
    ebpf: Ebpf,
    enroller: Enroller,
    scope: Option<(Scope, Option<Mounts>)>,
    attached: Vec<Attachment>,
    bpf_lsm: bool,
    events: AsyncFd<RingBuf<MapData>>,
    losses: Losses,
    look: Interval,
    looks: u32,
    duplicates: Duplicates,
    decoder: Decoder,
    pending: VecDeque<Record>,
    /// The ring buffer may hold more than the last batch.
    more_in_ring: bool,
    seq: u64,
    summary: Summary,
    stopped: bool,
}

impl Tracer {
    /// Begins to describe a trace.
    #[must_use]
    pub fn builder() -> TracerBuilder {
        TracerBuilder {
            paths: Vec::new(),
            buffer_size: DEFAULT_BUFFER_SIZE,
            period: DEFAULT_PERIOD,
            include_own: false,
            log_level: 0,
        }
    }

    /// The next record; `None` when the trace was stopped and everything has been yielded.
    pub async fn next(&mut self) -> Option<Record> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The next record, if it has been decoded already: the rest of a batch, without the cost of a wait.
    pub fn next_of_batch(&mut self) -> Option<Record> {
        self.pending.pop_front()
    }

    /// Whether the next record is there already, so that [`Tracer::next`] would not wait.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.pending.is_empty() || self.more_in_ring
    }

    /// Detaches everything. What is in the ring buffer is still yielded, then the stream ends.
    pub fn stop(&mut self) {
        if self.stopped {
            return;
        }
        for (_, program) in self.ebpf.programs_mut() {
            // A program that was never attached has nothing to unload.
            let _ = unload(program);
        }
        self.stopped = true;
        while self.read_ring() == BATCH {}
        self.note_losses(true);
    }

    /// What happened so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let Counters {
            retried,
            late,
            untracked,
            ..
        } = self.losses.total();
        Summary {
            retried,
            late,
            untracked,
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
            let Some((record, names)) = FirstDirtyRecord::decode(&item) else {
                continue;
            };
            if self.duplicates.is_duplicate(&record) {
                continue;
            }
            let mut event = self.decoder.decode(&record, names, &clocks);
            drop(item);
            self.seq += 1;
            event.seq = self.seq;
            self.summary.events += 1;
            self.pending.push_back(Record::FirstDirty(event));
        }
        BATCH
    }

    /// Reports what was lost since the last look.
    fn note_losses(&mut self, skipped_too: bool) {
        let mut losses = self.losses.buffer_full();
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
        self.looks += 1;
        self.note_losses(self.looks.is_multiple_of(LOOKS_PER_SKIP_CHECK));
        if let Some((scope, Some(mounts))) = &mut self.scope
            && mounts.have_changed()
            && let Err(error) = scope.mounts_changed(&mut self.enroller)
        {
            tracing::warn!("filesystems mounted just now may not be traced: {error}");
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

pub(crate) fn unload(program: &mut Program) -> Result<(), aya::programs::ProgramError> {
    match program {
        Program::Lsm(program) => program.unload(),
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::BtfTracePoint(program) => program.unload(),
        _ => Ok(()),
    }
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, Error> {
    ebpf.take_map(name)
        .ok_or_else(|| Error::BadValue(format!("the object has no map {name}")))
}

fn typed<T: TryFrom<Map, Error = MapError>>(map: Map) -> Result<T, Error> {
    T::try_from(map).map_err(|error| Error::kernel("cannot use a BPF map", &error))
}

/// The programs that the kernel may skip, with descriptors of their own for reading their counters.
fn skippable(ebpf: &Ebpf, attached: &[Attachment]) -> Result<Vec<Skippable>, Error> {
    attached
        .iter()
        .filter(|way| way.kind != Kind::Lsm)
        .filter_map(|way| Some((way, ebpf.program(way.program)?)))
        .map(|(way, program)| {
            use std::os::fd::AsFd;
            let fd = program
                .fd()
                .map_err(|error| Error::kernel("cannot watch a program", &error))?
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| Error::kernel("cannot watch a program", &error))?;
            Ok(Skippable {
                hook: way.target,
                fd,
                seen: 0,
            })
        })
        .collect()
}

/// The kernel takes powers of two that are multiples of the page size.
fn ring_size(bytes: u32) -> Result<u32, Error> {
    let page = rustix::param::page_size() as u32;
    bytes
        .max(page)
        .checked_next_power_of_two()
        .filter(|&size| size <= 1 << 30)
        .ok_or_else(|| {
            Error::BadValue(format!(
                "a ring buffer of {bytes} bytes is too large: at most 1 GiB"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_sizes_are_rounded_up_and_bounded() {
        let page = rustix::param::page_size() as u32;
        assert_eq!(ring_size(1).unwrap(), page);
        assert_eq!(ring_size(page + 1).unwrap(), 2 * page);
        assert_eq!(ring_size(DEFAULT_BUFFER_SIZE).unwrap(), DEFAULT_BUFFER_SIZE);
        assert!(ring_size(u32::MAX).is_err());
    }
}
