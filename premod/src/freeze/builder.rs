//! What is to be frozen, and how; and the way to programs that hang.

use std::{
    collections::HashMap,
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use premod_common::guard::{GUARDED_MAX, MmapPolicy, Mode, Own, UseKind};

use super::{
    claims::registry::Registry,
    events::{Decoder, Listener},
    files::{flush::Flusher, kernel_use::UsedByKernel, names::Names, target::Target},
    freezer::Freezer,
    gate::Gate,
    guards::{Guards, pins::Pins},
    hold::{
        keeper::{Keeper, recover},
        processes::{can_be_compared, started},
    },
    report::account::Account,
    users::{self, Unknown, User},
};
use crate::{
    errno::Errno,
    error::Error,
    kernel::{
        btf::Btf,
        caps,
        enrol::scratch_mark,
        environment::{Environment, KPROBES},
        facts::{self, FactTable},
        load,
    },
    namespaces,
};

/// How writers are kept out.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What happens to whoever wants to modify by a system call.
    pub mode: Mode,
    /// The errno that it gets, if it is denied.
    pub errno: Option<Errno>,
    /// What happens to stores through mappings.
    pub mmap: MmapPolicy,
}

/// Until when a freeze is meant to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until its program thaws: up to then somebody relies on the files. That the time is up before, or that others thaw
    /// them, is a violation.
    Done,
    /// Until somebody thaws, or the time is up: every end is right.
    Told,
}

/// What is to be frozen, and how.
#[derive(Debug)]
pub struct FreezerBuilder {
    pub(super) paths: Vec<PathBuf>,
    pub(super) mode: Mode,
    pub(super) errno: Errno,
    pub(super) mmap: MmapPolicy,
    pub(super) timeout: Duration,
    pub(super) until: Until,
    pub(super) unattended: bool,
}

impl FreezerBuilder {
    pub(super) const fn new() -> Self {
        Self {
            paths: Vec::new(),
            mode: Mode::Hold,
            errno: Errno(libc::EBUSY as u32),
            mmap: MmapPolicy::Stop,
            timeout: Duration::from_secs(60),
            until: Until::Done,
            unattended: false,
        }
    }

    /// Adds files; all are frozen together.
    #[must_use]
    pub fn paths(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.paths.extend(paths);
        self
    }

    /// System calls that would modify fail with this errno, instead of waiting.
    #[must_use]
    pub fn deny(mut self, errno: Errno) -> Self {
        self.mode = Mode::Deny;
        self.errno = errno;
        self
    }

    /// What happens to stores through mappings: [`MmapPolicy::Stop`] unless something else is said.
    #[must_use]
    pub fn mmap(mut self, policy: MmapPolicy) -> Self {
        self.mmap = policy;
        self
    }

    /// How long the freeze may last at most, from the moment at which writers are kept out.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Until when the freeze is meant to last: [`Until::Done`] unless something else is said.
    #[must_use]
    pub fn until(mut self, until: Until) -> Self {
        self.until = until;
        self
    }

    /// Nobody hears how the freeze was when it has ended by itself. If it was violated, that is kept, and told to whoever comes
    /// to thaw one of the files.
    #[must_use]
    pub fn unattended(mut self, unattended: bool) -> Self {
        self.unattended = unattended;
        self
    }

    /// How writers are kept out.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            mode: self.mode,
            errno: (self.mode == Mode::Deny).then_some(self.errno),
            mmap: self.mmap,
        }
    }

    /// Opens the files, and refuses those about which nothing could be promised.
    ///
    /// # Errors
    /// If one cannot be opened or is refused, or none is given, or too many.
    pub fn targets(&self) -> Result<Vec<Target>, Error> {
        let used = UsedByKernel::gather();
        let mut targets: Vec<Target> = Vec::new();
        let mut known = HashMap::new();
        for path in &self.paths {
            let target = Target::open(path, &used)?;
            match known.get(&target.id) {
                Some(&number) => {
                    let same: &mut Target = &mut targets[number];
                    same.is_given_again(target);
                }
                None => {
                    known.insert(target.id, targets.len());
                    targets.push(target);
                }
            }
        }
        if targets.is_empty() {
            return Err(Error::BadValue("no file to freeze was given".to_owned()));
        }
        if targets.len() > GUARDED_MAX as usize {
            return Err(Error::TooManyToFreeze {
                files: targets.len(),
                most: GUARDED_MAX,
            });
        }
        Ok(targets)
    }

    /// Who would be concerned by freezing these files now.
    ///
    /// # Errors
    /// If the process lacks capabilities, the kernel lacks something or refuses, or it cannot be told.
    pub async fn users(&self, targets: &[Target]) -> Result<Vec<User>, Error> {
        let kernel = Kernel::examine()?;
        let mut guards = Guards::create(
            &kernel.table.facts,
            self.own()?,
            self.paths.len(),
            &kernel.environment,
            None,
        )?;
        guards.attach_questions(&kernel.btf, &kernel.environment)?;
        let inodes = guard(&mut guards, targets)?;
        let kinds = [UseKind::Open, UseKind::Mapped];
        let limit = Instant::now() + self.timeout;
        users::users(&mut guards, &inodes, &kinds, limit)
            .await
            .map_err(|unknown| self.unknown(targets, unknown))
    }

    pub(super) fn unknown(&self, targets: &[Target], unknown: Unknown) -> Error {
        match unknown {
            Unknown::Failed(error) => error,
            Unknown::Why(why) => Error::NotFrozenInTime {
                files: targets.len(),
                timeout: self.timeout,
                why,
            },
        }
    }

    fn own(&self) -> Result<Own, Error> {
        let pid = std::process::id();
        let began = started(pid).ok_or_else(|| {
            Error::BadValue("premod freeze needs /proc, and it is not mounted".to_owned())
        })?;
        Ok(Own {
            mode: self.mode as u32,
            mmap: self.mmap as u32,
            errno: self.errno.0,
            pid,
            began,
            ..Own::default()
        })
    }

    /// Freezes the files: [`FreezerBuilder::targets`], [`FreezerBuilder::prepare`] and [`Freezer::close`] in one.
    ///
    /// # Errors
    /// As for each of these.
    pub async fn freeze(self) -> Result<Freezer, Error> {
        let targets = self.targets()?;
        let mut freezer = self.prepare(targets)?;
        freezer.close().await?;
        Ok(freezer)
    }

    /// Claims the files for this process, and attaches the programs. Everybody passes; nobody notices.
    ///
    /// Has to be called inside of a tokio runtime with time and I/O enabled.
    ///
    /// # Errors
    /// [`Error::Busy`] if a file is frozen already. If the process lacks capabilities or freezes other files, the kernel
    /// lacks something or refuses, or a file is refused.
    pub fn prepare(self, targets: Vec<Target>) -> Result<Freezer, Error> {
        let account = Account::begin(&targets);
        let files: Vec<_> = targets.iter().map(AsFd::as_fd).collect();
        let registry = Registry::open()?;
        let claim = registry.claim(&files)?;
        drop(files);
        let Kernel {
            environment,
            btf,
            table,
        } = Kernel::examine()?;
        if self.mode == Mode::Hold && !can_be_compared() {
            return Err(Error::KernelLacks {
                release: environment.release,
                what: "kcmp(2), by which processes are found that share descriptors or memory (CONFIG_KCMP; sandboxes may forbid it)".to_owned(),
                cost: "writers can be denied (--deny), but not held".to_owned(),
            });
        }
        // Whatever a premod that was killed has left stopped is not to wait any longer.
        recover()?;
        let pins = Pins::make()?;
        let mut guards = Guards::create(
            &table.facts,
            self.own()?,
            self.paths.len(),
            &environment,
            Some(pins.path()),
        )?;
        let keeper = Keeper::start(&pins)?;
        guards.attach(&btf, &environment, registry.path())?;
        let inodes = guard(&mut guards, &targets)?;
        guards.introduce(targets[0].as_fd(), keeper.pid())?;
        let renamed = guards.controls.tally()?.renamed;
        let names = Names::watch(&mut guards, &targets)
            .map_err(|unknown| self.unknown(&targets, unknown))?;
        let dirty_mark = dirty_mark(&table, &targets, &mut guards)?;
        let ring = guards
            .take_happenings()
            .ok_or_else(|| Error::BadValue("the ring buffer is gone".to_owned()))?;
        let decoder = Decoder::new(inodes.clone(), account.paths());
        let listener = Listener::new(ring, decoder)?;
        let flusher = Flusher::new(targets.iter().map(Target::shared_file));
        let gate = Gate {
            inodes,
            names,
            renamed,
            // The mark of pages under writeback is the next bit (PAGECACHE_TAG_WRITEBACK is 1, DIRTY is 0).
            unclean: dirty_mark | dirty_mark << 1,
            builder: self,
            targets,
            guards,
            flusher,
            keeper: Some(keeper),
            pins,
            frozen: None,
        };
        let server = claim.listen()?;
        Ok(Freezer {
            gate,
            listener,
            account,
            claim,
            server,
            watch: None,
            over: None,
            asked: Vec::new(),
        })
    }
}

/// The kernel, as far as a freeze is concerned with it.
struct Kernel {
    environment: Environment,
    btf: Btf,
    table: FactTable,
}

impl Kernel {
    /// Looks at it.
    ///
    /// # Errors
    /// If the process may not freeze here, or the kernel lacks something.
    fn examine() -> Result<Self, Error> {
        let missing = caps::missing_for_freeze();
        if !missing.is_empty() {
            return Err(Error::not_permitted(&missing));
        }
        namespaces::must_be_the_machines()?;
        let environment = Environment::gather();
        let release = || environment.release.clone();
        if !environment.bpf_lsm_is_active() {
            return Err(Error::KernelLacks {
                release: release(),
                what: "bpf among its active LSMs (/sys/kernel/security/lsm; add it to lsm= on the kernel's command line)".to_owned(),
                cost: "writers cannot be kept out".to_owned(),
            });
        }
        if environment.kprobes_off {
            return Err(Error::KernelLacks {
                release: release(),
                what: format!("kprobes, which are switched off (echo 1 > {KPROBES})"),
                cost: "stores through mappings could come unnoticed".to_owned(),
            });
        }
        let btf = Btf::of_running_kernel().map_err(|source| Error::NoBtf {
            release: release(),
            source,
        })?;
        if environment.lockdown_forbids() {
            return Err(load::refused(&environment, ""));
        }
        let mut table = facts::gather(&btf);
        if let Some(fact) = table.missing_for_freeze() {
            return Err(Error::KernelLacks {
                release: release(),
                what: format!("{} (looked for in {})", fact.name, fact.source),
                cost: "writers cannot be kept out".to_owned(),
            });
        }
        table.facts.overlay_upper = facts::overlay_upper(&btf).unwrap_or(0);
        Ok(Self {
            environment,
            btf,
            table,
        })
    }
}

/// Tells the kernel side which files they are; the addresses of their inodes.
fn guard(guards: &mut Guards, targets: &[Target]) -> Result<Vec<u64>, Error> {
    let mut inodes = Vec::with_capacity(targets.len());
    for target in targets {
        let look = guards.look(target.as_fd())?;
        if look.tgid != std::process::id() {
            return Err(Error::BadValue(
                "premod freeze has to run in the initial pid namespace, where it can see every process: run it on the host, not in the container".to_owned(),
            ));
        }
        target.check_look(&look)?;
        guards.guard(&look)?;
        inodes.push(look.inode);
    }
    Ok(inodes)
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
