//! How a trace begins.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError, RingBuf},
};
use premod_common::{
    counters::Counters,
    facts::Settings,
    inode::{Scoped, TRACKED_MAX},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{MissedTickBehavior, interval},
};

use super::{LOOK_INTERVAL, Summary, Tracer, batches_in};
use crate::{
    cgroups::Cgroups,
    error::Error,
    events::{Decoder, Duplicates, Losses, Skippable, watch},
    excluded::Excluded,
    kernel::{
        attach::{self, Attachment, Hook, Kind},
        btf::Btf,
        caps,
        enrol::{self, Enroller},
        environment::Environment,
        facts,
        hooks::HOOKS,
        load,
        mapped::MappedArray,
    },
    scope::{Maps, OVERLAY_MAGIC, Scope, Watched},
};

/// Size of the event ring buffer unless asked otherwise, in bytes: room for about 100,000 events.
pub const DEFAULT_BUFFER_SIZE: u32 = 16 << 20;

/// After how long a change that leaves no dirty page counts as written back unless asked otherwise: what
/// the kernel takes for pages (`vm.dirty_expire_centisecs`).
pub const DEFAULT_PERIOD: Duration = Duration::from_secs(30);

/// What is to be traced, and how.
#[derive(Clone, Debug)]
pub struct TracerBuilder {
    paths: Vec<PathBuf>,
    excluded: Vec<PathBuf>,
    cgroups: Vec<u64>,
    cgroup_directories: Vec<PathBuf>,
    buffer_size: u32,
    period: Duration,
    include_own: bool,
    wait: bool,
    log_level: load::LogLevel,
}

impl TracerBuilder {
    pub(super) fn new() -> Self {
        Self {
            paths: Vec::new(),
            excluded: Vec::new(),
            cgroups: Vec::new(),
            cgroup_directories: Vec::new(),
            buffer_size: DEFAULT_BUFFER_SIZE,
            period: DEFAULT_PERIOD,
            include_own: false,
            wait: false,
            log_level: 0,
        }
    }

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

    /// Leaves out everything below this directory, by whatever path it is reached.
    #[must_use]
    pub fn exclude(mut self, directory: impl Into<PathBuf>) -> Self {
        self.excluded.push(directory.into());
        self
    }

    /// Lets events say whether they are caused in the cgroup with this id or below it:
    /// [`FirstDirty::in_cgroup`](crate::events::FirstDirty::in_cgroup). Several can be asked for.
    #[must_use]
    pub fn cgroup(mut self, id: u64) -> Self {
        self.cgroups.push(id);
        self
    }

    /// As [`TracerBuilder::cgroup`], for the cgroup that has this directory: if it is removed and made anew, for that one.
    #[must_use]
    pub fn cgroup_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cgroup_directories.push(directory.into());
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

    /// Waits for paths that do not exist yet, as for those that are gone. Without this they are an error.
    #[must_use]
    pub fn wait(mut self, wait: bool) -> Self {
        self.wait = wait;
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
            return Err(Error::not_permitted(&missing));
        }
        let loader = load::Loader::in_background();
        let environment = Environment::gather();
        let release = || environment.release.clone();
        // Before anything is loaded: a wrong PATH is the user's most likely mistake.
        let paths: Vec<Watched> = self
            .paths
            .iter()
            .map(|path| Watched::open(path, self.wait))
            .collect::<Result<_, _>>()?;
        let excluded = Excluded::open(&self.excluded, &self.paths)?;
        let btf = Btf::of_running_kernel().map_err(|source| Error::NoBtf {
            release: release(),
            source,
        })?;
        if environment.lockdown_forbids() {
            return Err(load::refused(&environment, ""));
        }
        let mut table = facts::gather(&btf);
        tracing::debug!("gathered {} facts from BTF", table.list.len());
        if let Some(sentence) = table.incomplete() {
            tracing::warn!("{sentence}");
        }
        let mut attached = Vec::new();
        let scoped = match (paths.is_empty(), excluded.is_empty()) {
            (true, true) => Scoped::Everything,
            (true, false) => Scoped::AllBut,
            (false, _) => Scoped::Below,
        };
        let is_scoped = scoped != Scoped::Everything;
        let needed = |hook: &&Hook| hook.when.applies(is_scoped, &environment);
        for hook in HOOKS.iter().filter(needed) {
            match hook.choose(&btf, &environment) {
                Some(way) => {
                    attached.push(way);
                    attached.extend(way.needs);
                    let twin = way.of_twin();
                    attached.extend(twin.filter(|_| environment.preemption.is_anywhere()));
                }
                None if hook.essential => {
                    return Err(Error::KernelLacks {
                        release: release(),
                        what: format!("the hook {}", hook.ways[0].target),
                        cost: hook.cost.to_owned(),
                    });
                }
                None => {}
            }
        }
        let kernel_btf = attach::targets(&btf, attached.iter().chain(&[enrol::HOOK]))?;
        let mut loader = load::Loader::ready(loader);
        tracing::debug!("the loader is ready");
        let mut enroller = Enroller::load(&mut loader, table.facts, &kernel_btf, &environment)?;
        let learnt = enrol::learn(&mut enroller, &mut table, &self.paths)?;
        if let Some(fact) = table.missing() {
            return Err(Error::KernelLacks {
                release: release(),
                what: format!("{} (looked for in {})", fact.name, fact.source),
                cost: fact.cost.to_owned(),
            });
        }

        tracing::debug!("learnt what BTF does not tell");

        let setup = load::Setup {
            facts: table.facts,
            settings: Settings {
                nonce: 0,
                untracked_bdi: learnt.untracked_bdi,
                overlay_magic: OVERLAY_MAGIC,
                namespace: learnt.namespace,
                period: u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX),
                own_pid: learnt.own_pid,
                scoped: scoped as u32,
                include_own: self.include_own.into(),
                cgroups: (!(self.cgroups.is_empty() && self.cgroup_directories.is_empty())).into(),
            },
            buffer_size: ring_size(self.buffer_size)?,
            inodes: TRACKED_MAX,
            cpus: load::cpus()?,
            log_level: self.log_level,
        };
        let mut ebpf = loader.object(&setup, &environment)?;
        tracing::debug!("created the maps");
        let scope = if is_scoped {
            let maps = Maps {
                roots: typed(take(&mut ebpf, "SCOPE")?)?,
                names: typed(take(&mut ebpf, "NAMES")?)?,
                epoch: typed(take(&mut ebpf, ".data.epoch")?)?,
                followed: typed(take(&mut ebpf, ".data.followed")?)?,
            };
            Some(Scope::enrol(paths, excluded, maps, &mut enroller, learnt)?)
        } else {
            None
        };
        let cgroups = typed(take(&mut ebpf, "CGROUPS")?)?;
        let cgroups = Cgroups::ask(cgroups, &self.cgroups, &self.cgroup_directories)?;
        let ring: RingBuf<MapData> = typed(take(&mut ebpf, "EVENTS")?)?;
        let counters = mapped(take(&mut ebpf, "COUNTERS")?, setup.cpus)?;

        let advance = attached.iter().find_map(Attachment::hands_over_to);
        let to_load: Vec<_> = attached.iter().chain(&advance).copied().collect();
        attach::load_ahead(&mut ebpf, &kernel_btf, &to_load);
        tracing::debug!("loaded the programs");
        let called = match advance {
            Some(way) => {
                let programs = typed(take(&mut ebpf, "ADVANCE")?)?;
                Some(attach::make_callable(
                    &mut ebpf,
                    &kernel_btf,
                    way,
                    programs,
                    &environment,
                )?)
            }
            None => None,
        };
        for &way in &attached {
            attach::attach(&mut ebpf, &kernel_btf, way, &environment)?;
        }
        enroller.rest()?;
        let on_kprobes = attached.iter().any(|way| way.kind == Kind::Kprobe);
        let losses = Losses::new(counters, skippable(&ebpf, &attached)?, on_kprobes);
        // SAFETY: a ring buffer returns the same open descriptor for as long as it lives.
        let events = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| Error::kernel("cannot wait for the ring buffer", &error))?;
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Ok(Tracer {
            ebpf,
            _called: called,
            enroller,
            scope,
            cgroups,
            attached,
            bpf_lsm: environment.bpf_lsm_is_active(),
            events,
            losses,
            look,
            looks: 0,
            seq_seen: 0,
            duplicates: Duplicates::default(),
            decoder: Decoder::new(),
            pending: VecDeque::new(),
            more_in_ring: true,
            batches_in_ring: batches_in(setup.buffer_size),
            seq: 0,
            summary: Summary::default(),
            stopped: false,
        })
    }
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or_else(|| no_map(name))
}

fn no_map(name: &str) -> Error {
    Error::BadValue(format!("the object has no map {name}"))
}

fn typed<M, T: TryFrom<M, Error = MapError>>(map: M) -> Result<T, Error> {
    T::try_from(map).map_err(|error| Error::kernel("cannot use a BPF map", &error))
}

/// The values of an array, one for each CPU.
fn mapped(map: Map, cpus: u32) -> Result<MappedArray<Counters>, Error> {
    let Map::Array(data) = map else {
        return Err(Error::BadValue("the counters are no array".to_owned()));
    };
    MappedArray::new(data, cpus as usize)
        .map_err(|error| Error::kernel("cannot map the counters", &error))
}

/// The programs that the kernel must not skip, with descriptors of their own for reading their counters. Twins are
/// skipped only together.
fn skippable(ebpf: &Ebpf, attached: &[Attachment]) -> Result<Vec<Skippable>, Error> {
    let mut all: Vec<(Attachment, Skippable)> = Vec::new();
    for way in attached.iter().filter(|way| way.loses_when_skipped()) {
        let Some(program) = ebpf.program(way.program) else {
            continue;
        };
        let fd = watch(program)?;
        match all.last_mut() {
            Some((first, programs)) if first.of_twin() == Some(*way) => programs.add(fd),
            _ => {
                let mut programs = Skippable::new(way.target);
                programs.add(fd);
                all.push((*way, programs));
            }
        }
    }
    Ok(all.into_iter().map(|(_, programs)| programs).collect())
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
