//! The algorithm: how files become frozen, and how it is known that they are.

use std::{
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use premod_common::{
    event::Op,
    guard::{GuardRecord, GuardSettings, Happening, HeldProcess, MmapPolicy, Mode, Phase, Tally},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    drain::{self, Stuck},
    flush::{Flushed, Flusher},
    guards::Guards,
    keeper::{Keeper, Pins, Recovered, recover},
    processes::{User, Wanted, users},
    stop,
    target::Target,
};
use crate::{
    error::Error,
    events,
    kernel::{
        btf::Btf,
        caps,
        enrol::scratch_mark,
        environment::Environment,
        facts::{self, FactTable},
        load,
    },
};

/// How often the files are flushed again because somebody has modified one meanwhile.
const ROUNDS: u32 = 64;
/// A program that hangs twice tells twice, within this time.
const TWICE: Duration = Duration::from_millis(5);

/// What is to be frozen, and how.
#[derive(Debug)]
pub struct FreezerBuilder {
    paths: Vec<PathBuf>,
    mode: Mode,
    errno: u32,
    mmap: MmapPolicy,
    stop_all: bool,
    timeout: Duration,
}

impl FreezerBuilder {
    /// Adds files; all are frozen together.
    #[must_use]
    pub fn paths(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.paths.extend(paths);
        self
    }

    /// System calls that would modify fail with this errno (1 to 4095), instead of waiting.
    #[must_use]
    pub fn deny(mut self, errno: u32) -> Self {
        self.mode = Mode::Deny;
        self.errno = errno;
        self
    }

    /// What happens to stores through mappings.
    #[must_use]
    pub fn mmap(mut self, policy: MmapPolicy) -> Self {
        self.mmap = policy;
        self
    }

    /// Stops every process that has one of the files mapped, shared and writable, not only those with several
    /// threads. Then nothing that the kernel stores on their behalf can slip through.
    #[must_use]
    pub fn stop_all_that_map(mut self, stop: bool) -> Self {
        self.stop_all = stop;
        self
    }

    /// How long the freeze may last at most, from the moment at which writers are kept out.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Opens the files, and refuses those about which nothing could be promised.
    ///
    /// # Errors
    /// If one cannot be opened or is refused, or none is given.
    pub fn targets(&self) -> Result<Vec<Target>, Error> {
        let mut targets: Vec<Target> = Vec::new();
        for path in &self.paths {
            let target = Target::open(path)?;
            if !targets.iter().any(|known| known.id == target.id) {
                targets.push(target);
            }
        }
        if targets.is_empty() {
            return Err(Error::BadValue("no file to freeze was given".to_owned()));
        }
        Ok(targets)
    }

    /// Attaches the programs. Everybody passes; nobody notices.
    ///
    /// # Errors
    /// If the process lacks capabilities, the kernel lacks something or refuses, or a file is refused.
    pub fn prepare(self, targets: Vec<Target>) -> Result<Freezer, Error> {
        let missing = caps::missing_for_freeze();
        if !missing.is_empty() {
            return Err(Error::NotPermitted {
                missing: missing.join(" and "),
            });
        }
        let environment = Environment::gather();
        let release = || environment.release.clone();
        if !environment.bpf_lsm_is_active() {
            return Err(Error::KernelLacks {
                release: release(),
                what: "bpf among its active LSMs (/sys/kernel/security/lsm; add it to lsm= on the kernel's command line)".to_owned(),
                cost: "writers cannot be kept out".to_owned(),
            });
        }
        let btf = Btf::of_running_kernel().map_err(|source| Error::NoBtf {
            release: release(),
            source,
        })?;
        if environment.lockdown_forbids() {
            return Err(load::refused(&environment, ""));
        }
        let table = facts::gather(&btf);
        let kernel_btf = aya::Btf::from_sys_fs()
            .map_err(|error| Error::kernel("cannot read the kernel's type information", &error))?;
        if let Some(fact) = table.missing_for_freeze() {
            return Err(Error::KernelLacks {
                release: release(),
                what: format!("{} (looked for in {})", fact.name, fact.source),
                cost: "writers cannot be kept out".to_owned(),
            });
        }
        // Whatever a premod that was killed has left stopped is not to wait any longer.
        recover()?;
        let pins = Pins::make()?;
        let settings = GuardSettings {
            nonce: 0,
            mode: self.mode as u32,
            mmap: self.mmap as u32,
            errno: self.errno,
            verdict: -self.errno.cast_signed(),
            own_pid: std::process::id(),
            padding: 0,
        };
        let mut guards = Guards::create(&table.facts, settings, &environment, pins.path())?;
        let keeper = Keeper::start(&pins)?;
        guards.attach(&btf, &kernel_btf, &environment)?;
        for target in &targets {
            let look = guards.look(target.as_fd())?;
            if look.tgid != std::process::id() {
                return Err(Error::BadValue(
                    "premod freeze has to run in the initial pid namespace, where it can see every process: run it on the host, not in the container".to_owned(),
                ));
            }
            target.check_look(&look)?;
            guards.guard(&look)?;
        }
        let dirty_mark = dirty_mark(&table, &targets, &mut guards)?;
        let ring = guards
            .take_happenings()
            .ok_or_else(|| Error::BadValue("the ring buffer is gone".to_owned()))?;
        // SAFETY: a ring buffer returns the same open descriptor for as long as it lives.
        let happenings = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| Error::kernel("cannot wait for the ring buffer", &error))?;
        let flusher =
            Flusher::new(targets.iter().map(Target::file)).map_err(|error| Error::Kernel {
                context: "cannot open the files a second time".to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Freezer {
            inodes: Vec::new(),
            // The mark of pages under writeback is the next bit (PAGECACHE_TAG_WRITEBACK is 1, DIRTY is 0).
            unclean: dirty_mark | dirty_mark << 1,
            builder: self,
            targets,
            guards,
            happenings,
            flusher,
            keeper: Some(keeper),
            _pins: pins,
            frozen: None,
            last_told: None,
            told_twice: false,
            unseen: 0,
        })
    }
}

/// The bit of `xa_flags` that says that some page is dirty. Old kernels do not tell it; there it is learnt from
/// a scratch file.
fn dirty_mark(table: &FactTable, targets: &[Target], guards: &mut Guards) -> Result<u32, Error> {
    match table.facts.mapping_dirty_mark {
        0 => {
            let places: Vec<PathBuf> = targets
                .iter()
                .filter_map(|target| target.path.parent().map(Into::into))
                .collect();
            let mark = scratch_mark(&places, |file| Ok(Some(guards.look(file)?.mapping_flags)))?;
            mark.ok_or_else(|| {
                Error::BadValue(
                    "premod needs a writable place for a scratch file, to learn how this kernel marks dirty pages: /var/tmp on a disk will do".to_owned(),
                )
            })
        }
        known => Ok(known),
    }
}

/// How writers are kept out.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What happens to whoever wants to modify by a system call.
    pub mode: Mode,
    /// The errno that it gets, if it is denied.
    pub errno: Option<u32>,
    /// What happens to stores through mappings.
    pub mmap: MmapPolicy,
}

/// When and how the files became frozen.
#[derive(Clone, Copy, Debug)]
pub struct Frozen {
    /// When writers were kept out, on the monotonic clock.
    pub closed: events::MonotonicNs,
    /// When the files were known to be clean and still.
    pub since: events::MonotonicNs,
    /// When the hooks let everybody pass by themselves.
    pub deadline: events::MonotonicNs,
    /// How often the files had to be flushed: each time somebody had modified one since the time before.
    pub rounds: u32,
    /// Modifications counted up to then.
    touches: u64,
}

/// Why a freeze is violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A modification that no hook could keep out was seen.
    Modified,
    /// A store that could not be stopped before it happened.
    Stored,
    /// The kernel skipped premod's programs, so that a modification may have gone unseen.
    Skipped,
    /// The record of a modification was lost.
    Lost,
    /// The file's path leads to another file now.
    Replaced,
    /// The time was up before the freeze was to end.
    Expired,
    /// Somebody ended the freeze before CMD had ended.
    ThawedEarly,
}

impl Why {
    /// As it stands in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Modified => "modified",
            Self::Stored => "stored",
            Self::Skipped => "skipped",
            Self::Lost => "lost",
            Self::Replaced => "replaced",
            Self::Expired => "expired",
            Self::ThawedEarly => "thawed_early",
        }
    }

    /// In words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Modified => "it was modified by a way that cannot be kept out",
            Self::Stored => "a store through a mapping could not be stopped before it happened",
            Self::Skipped => {
                "the kernel skipped premod's programs, so that a modification may have gone unseen"
            }
            Self::Lost => "a modification was counted whose record was lost",
            Self::Replaced => "its path leads to another file now",
            Self::Expired => "the time was up",
            Self::ThawedEarly => "the freeze was ended before CMD had ended",
        }
    }
}

/// A file was modified, or may have been, while it was frozen.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Why.
    pub why: Why,
    /// The file, by its number among the targets, if one is concerned.
    pub file: Option<usize>,
    /// Who, if it is known.
    pub record: Option<GuardRecord>,
    /// When it was noticed, on the monotonic clock.
    pub mono: events::MonotonicNs,
}

/// Something that happens while files are frozen.
#[derive(Clone, Debug)]
pub enum Happened {
    /// A process was stopped until the thaw.
    Held(GuardRecord, Option<usize>),
    /// A process was refused for the first time.
    Refused(GuardRecord, Option<usize>),
    /// A process was killed before its store.
    Killed(GuardRecord, Option<usize>),
    /// The freeze is not what it promised to be.
    Violated(Violation),
}

/// How a freeze has ended.
#[derive(Debug)]
pub struct Thawed {
    /// Who was let go, and who was not.
    pub released: Recovered,
    /// What was counted.
    pub tally: Tally,
}

/// Files, and what keeps them still.
///
/// Dropping it thaws them: its programs vanish, and the keeper continues who was stopped.
pub struct Freezer {
    builder: FreezerBuilder,
    targets: Vec<Target>,
    inodes: Vec<u64>,
    unclean: u32,
    guards: Guards,
    happenings: AsyncFd<RingBuf<MapData>>,
    flusher: Flusher,
    keeper: Option<Keeper>,
    _pins: Pins,
    frozen: Option<Frozen>,
    last_told: Option<GuardRecord>,
    told_twice: bool,
    /// Counted modifications that were told, or given up.
    unseen: u64,
}

impl Freezer {
    /// Begins to describe a freeze.
    #[must_use]
    pub fn builder() -> FreezerBuilder {
        FreezerBuilder {
            paths: Vec::new(),
            mode: Mode::Hold,
            errno: libc::EBUSY as u32,
            mmap: MmapPolicy::Hold,
            stop_all: false,
            timeout: Duration::from_secs(60),
        }
    }

    /// How writers are kept out.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            mode: self.builder.mode,
            errno: (self.builder.mode == Mode::Deny).then_some(self.builder.errno),
            mmap: self.builder.mmap,
        }
    }

    /// The kernel's addresses of the files, by which records name them; empty before [`Freezer::close`].
    #[must_use]
    pub fn inodes(&self) -> &[u64] {
        &self.inodes
    }

    /// The files.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Since when and how they are frozen, if they are.
    #[must_use]
    pub fn frozen(&self) -> Option<Frozen> {
        self.frozen
    }

    /// Keeps modifiers out and waits until the files are clean and still. If that cannot be had in time,
    /// everybody passes again.
    ///
    /// # Errors
    /// [`Error::NotFrozenInTime`] if it cannot be had in time; whatever else goes wrong.
    pub async fn close(&mut self) -> Result<Frozen, Error> {
        let result = self.try_close().await;
        if result.is_err() {
            self.guards.controls.set(Phase::Open, 0)?;
        }
        result
    }

    async fn try_close(&mut self) -> Result<Frozen, Error> {
        let limit = Instant::now() + self.builder.timeout;
        for target in &self.targets {
            self.inodes.push(self.guards.look(target.as_fd())?.inode);
        }
        // Everybody passes, so all that takes long is done now: what is dirty is written, and whoever was in
        // the middle of a modification before the programs hung comes to its end.
        self.guards.controls.set(Phase::Watching, u64::MAX)?;
        self.flush(limit).await?;
        let wanted = Wanted {
            open: true,
            mapped: true,
        };
        let earlier = users(&self.targets, wanted);
        drain::land_earlier(&mut self.guards, &earlier, limit)
            .await?
            .map_err(|stuck| self.stuck(&stuck))?;
        self.flush(limit).await?;

        self.guards.forget_skips();
        let closed = events::now();
        let timeout = u64::try_from(self.builder.timeout.as_nanos()).unwrap_or(u64::MAX);
        let deadline = closed.0.saturating_add(timeout);
        let limit = Instant::now() + self.builder.timeout;
        self.guards.controls.set(Phase::Closed, deadline)?;
        drain::land(&mut self.guards, &self.targets, limit)
            .await?
            .map_err(|stuck| self.stuck(&stuck))?;
        self.stop_who_maps(limit)?;
        for rounds in 1..=ROUNDS {
            let before = self.guards.controls.tally()?.touches;
            self.flush(limit).await?;
            if !self.is_clean()? || self.guards.both_were_skipped() {
                continue;
            }
            // Last: from the flush up to here nobody has modified.
            let tally = self.guards.controls.tally()?;
            if tally.unnoted != 0 {
                return Err(self.not_frozen(
                    "more processes want to modify them than premod can keep track of".to_owned(),
                ));
            }
            if tally.touches == before {
                self.guards.stop_watching_calls();
                let frozen = Frozen {
                    closed,
                    since: events::now(),
                    deadline: events::MonotonicNs(deadline),
                    rounds,
                    touches: before,
                };
                self.unseen = before;
                self.frozen = Some(frozen);
                return Ok(frozen);
            }
        }
        Err(self.not_frozen(format!(
            "somebody modifies them by a way that cannot be kept out; after {ROUNDS} flushes they were not still"
        )))
    }

    async fn flush(&self, limit: Instant) -> Result<(), Error> {
        match self.flusher.flush(limit).await {
            Flushed::Done => Ok(()),
            Flushed::Late => Err(self.not_frozen("they could not be flushed in time".to_owned())),
            Flushed::Failed(number, error) => Err(Error::Kernel {
                context: format!("cannot flush {}", self.targets[number].path.display()),
                reason: error.to_string(),
            }),
        }
    }

    fn is_clean(&mut self) -> Result<bool, Error> {
        for target in &self.targets {
            if self.guards.look(target.as_fd())?.mapping_flags & self.unclean != 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stops processes beforehand whose stores could not be stopped one by one: while a thread of theirs
    /// faults, another one could use the page.
    fn stop_who_maps(&mut self, limit: Instant) -> Result<(), Error> {
        if self.builder.mmap == MmapPolicy::Report {
            return Ok(());
        }
        let mut mapped = false;
        for target in &self.targets {
            mapped |= self.guards.look(target.as_fd())?.mappings > 0;
        }
        if !mapped {
            return Ok(());
        }
        let wanted = Wanted {
            open: false,
            mapped: true,
        };
        let users = users(&self.targets, wanted);
        let mut stopped = Vec::new();
        for user in &users {
            if (user.threads > 1 || self.builder.stop_all)
                && stop::stop(&mut self.guards.controls, user)?
            {
                stopped.push(user);
            }
        }
        if let Some(user) = stop::wait_until_stopped(&stopped, limit).first() {
            return Err(self.not_frozen(format!(
                "process {} ({}), which has one mapped, does not stop",
                user.pid, user.comm
            )));
        }
        Ok(())
    }

    fn stuck(&self, stuck: &Stuck) -> Error {
        let why = if stuck.pid == 0 {
            "direct I/O on one does not come to its end".to_owned()
        } else {
            format!(
                "process {} (thread {}) is in the middle of a modification and does not come to its end",
                stuck.pid, stuck.thread
            )
        };
        self.not_frozen(why)
    }

    fn not_frozen(&self, why: String) -> Error {
        Error::NotFrozenInTime {
            files: self.targets.len(),
            timeout: self.builder.timeout,
            why,
        }
    }

    /// CMD's process, which must not be stopped: whatever it wants to modify fails instead.
    ///
    /// # Errors
    /// If the kernel side cannot be told.
    pub fn command_is(&mut self, pid: u32) -> Result<(), Error> {
        self.guards.command_is(pid)
    }

    /// Who is held at the moment.
    #[must_use]
    pub fn held(&self) -> Vec<(u32, HeldProcess)> {
        self.guards.controls.held()
    }

    /// What was counted so far.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn tally(&self) -> Result<Tally, Error> {
        self.guards.controls.tally()
    }

    /// Waits for the next thing that happens.
    ///
    /// # Errors
    /// If the kernel side cannot be heard any more.
    pub async fn next(&mut self) -> Result<Happened, Error> {
        loop {
            if let Some(happened) = self.next_told() {
                return Ok(happened);
            }
            let mut ready = self
                .happenings
                .readable_mut()
                .await
                .map_err(|error| Error::kernel("cannot wait for the ring buffer", &error))?;
            // Cleared before reading, so that what comes in between wakes us again.
            ready.clear_ready();
        }
    }

    /// The next thing that has happened already.
    fn next_told(&mut self) -> Option<Happened> {
        loop {
            let item = self.happenings.get_mut().next()?;
            let record = GuardRecord::decode(&item)?;
            drop(item);
            let frozen = self.frozen?;
            let happening = Happening::from_number(record.happening)?;
            if happening.is_modification() {
                if record.mono_ns < frozen.since.0 {
                    continue;
                }
                self.unseen += 1;
                if self.is_told_twice(&record) {
                    continue;
                }
            }
            let file = self.inodes.iter().position(|&inode| inode == record.inode);
            return Some(match happening {
                Happening::Refused => Happened::Refused(record, file),
                Happening::Held => Happened::Held(record, file),
                Happening::Killed => Happened::Killed(record, file),
                Happening::Touched | Happening::Stored => {
                    let why = if happening == Happening::Stored {
                        Why::Stored
                    } else {
                        Why::Modified
                    };
                    Happened::Violated(Violation {
                        why,
                        file,
                        record: Some(record),
                        mono: events::MonotonicNs(record.mono_ns),
                    })
                }
            });
        }
    }

    /// What a program sees that hangs twice is told twice.
    fn is_told_twice(&mut self, record: &GuardRecord) -> bool {
        let twice = !self.told_twice
            && self.last_told.as_ref().is_some_and(|last| {
                (last.tid, last.inode, last.happening, last.op)
                    == (record.tid, record.inode, record.happening, record.op)
                    && record.mono_ns - last.mono_ns < TWICE.as_nanos() as u64
            });
        self.told_twice = twice;
        self.last_told = Some(*record);
        twice
    }

    /// Flushes again: a page whose store was stopped can be stored to by others until it is
    /// write-protected again.
    pub fn protect_again(&self) {
        let limit = Instant::now() + self.builder.timeout;
        let flusher = self.flusher.clone();
        // If it fails, the page stays as it is, which only processes that write into others' memory can use.
        tokio::spawn(async move { flusher.flush(limit).await });
    }

    /// Looks for violations that nobody tells: skipped programs, lost records, replaced files, the end of the
    /// time. Has to be asked before the thaw, and now and then before.
    ///
    /// # Errors
    /// If the kernel side cannot be asked.
    pub fn examine(&mut self) -> Result<Vec<Happened>, Error> {
        let mut found: Vec<Happened> = std::iter::from_fn(|| self.next_told()).collect();
        let Some(frozen) = self.frozen else {
            return Ok(found);
        };
        let mono = events::now();
        let violated = |why, file| {
            Happened::Violated(Violation {
                why,
                file,
                record: None,
                mono,
            })
        };
        if self.guards.both_were_skipped() {
            found.push(violated(Why::Skipped, None));
        }
        let tally = self.guards.controls.tally()?;
        if tally.lost > 0 && tally.touches > self.unseen {
            found.push(violated(Why::Lost, None));
            self.unseen = tally.touches;
        }
        for (number, target) in self.targets.iter().enumerate() {
            if !target.is_in_its_place() {
                found.push(violated(Why::Replaced, Some(number)));
            }
        }
        if mono.0 >= frozen.deadline.0 {
            found.push(violated(Why::Expired, None));
        }
        Ok(found)
    }

    /// Whether any modification was counted since the files are frozen.
    ///
    /// # Errors
    /// If the kernel side cannot be asked.
    pub fn is_touched(&self) -> Result<bool, Error> {
        let touches = self.guards.controls.tally()?.touches;
        Ok(self.frozen.is_some_and(|frozen| touches > frozen.touches))
    }

    /// Lets everybody pass, and continues who was stopped.
    ///
    /// # Errors
    /// If the kernel side cannot be told; the keeper lets everybody go all the same.
    pub fn thaw(mut self) -> Result<Thawed, Error> {
        let opened = self.guards.controls.set(Phase::Open, 0);
        let released = match self.keeper.take() {
            Some(keeper) => keeper.dismiss(&mut self.guards.controls),
            None => Recovered::default(),
        };
        opened?;
        Ok(Thawed {
            released,
            tally: self.guards.controls.tally()?,
        })
    }

    /// Who would be concerned by freezing these files.
    #[must_use]
    pub fn users(targets: &[Target]) -> Vec<User> {
        let wanted = Wanted {
            open: true,
            mapped: true,
        };
        users(targets, wanted)
    }

    /// The kind of modification with this number.
    #[must_use]
    pub fn op(number: u32) -> Op {
        u8::try_from(number)
            .ok()
            .and_then(Op::from_number)
            .unwrap_or(Op::Unknown)
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.dismiss(&mut self.guards.controls);
        }
    }
}
