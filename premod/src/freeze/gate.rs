//! The algorithm: how files become frozen, and how it is known that they are.

use std::{collections::HashSet, os::fd::AsFd, time::Instant};

use premod_common::guard::{HeldProcess, Look, MmapPolicy, Phase, Tally, UseKind};

use super::{
    builder::FreezerBuilder,
    drain::{self, Stuck},
    files::{
        flush::{Flushed, Flusher},
        kernel_use::UsedByKernel,
        names::Names,
        target::Target,
    },
    guards::{Guards, pins::Pins},
    hold::{
        keeper::{Keeper, Recovered},
        others::Others,
        stop,
    },
    users::{User, users},
};
use crate::{
    error::Error,
    events,
    kernel::environment::{KPROBES, kprobes_are_off},
};

/// How often the files are flushed again because somebody has modified one meanwhile.
const ROUNDS: u32 = 64;

/// Keeps modifiers away from files.
///
/// Dropping it lets everybody pass: the programs do not know the files any more, and the keeper continues who was stopped.
pub(super) struct Gate {
    /// First, because the files have to stay open for as long.
    pub(super) guards: Guards,
    pub(super) builder: FreezerBuilder,
    pub(super) targets: Vec<Target>,
    pub(super) inodes: Vec<u64>,
    pub(super) unclean: u32,
    pub(super) flusher: Flusher,
    pub(super) keeper: Option<Keeper>,
    pub(super) pins: Pins,
    pub(super) names: Names,
    /// Changes of names that had been counted when the names were looked up.
    pub(super) renamed: u64,
    /// Since when the files are frozen, if they are.
    pub(super) frozen: Option<Frozen>,
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
}

impl Gate {
    /// Keeps modifiers out and waits until the files are clean and still. If that cannot be had in time,
    /// everybody passes again. Returns what had been counted when they were.
    ///
    /// # Errors
    /// [`Error::NotFrozenInTime`] if it cannot be had in time; whatever else goes wrong.
    pub(super) async fn close(&mut self) -> Result<(Frozen, Tally), Error> {
        let result = self.try_close().await;
        if result.is_err() {
            self.guards.controls.set(Phase::Open, 0)?;
        }
        result
    }

    async fn try_close(&mut self) -> Result<(Frozen, Tally), Error> {
        let limit = Instant::now() + self.builder.timeout;
        // Everybody passes, so all that takes long is done now: what is dirty is written, and whoever was in
        // the middle of a modification before the programs hung comes to its end.
        self.guards.controls.set(Phase::Watching, u64::MAX)?;
        self.flush(limit).await?;
        let mut kinds = Vec::new();
        if self.any(|look| look.writers > 0)? {
            kinds.push(UseKind::Open);
        }
        if self.any(|look| look.mappings > 0)? {
            kinds.push(UseKind::Mapped);
        }
        let earlier = self.users(&kinds, limit).await?;
        let others = self.others();
        let keeper = self.keeper.as_mut();
        drain::land_earlier(&mut self.guards, keeper, &others, &earlier, limit)
            .await?
            .map_err(|stuck| self.stuck(&stuck))?;
        self.flush(limit).await?;
        self.hold_who_has_rings(limit).await?;
        // Before stores are kept out, so that nobody has to be stopped at one.
        self.hold_who_maps(limit).await?;

        self.guards.forget_skips();
        let closed = events::now();
        let timeout = u64::try_from(self.builder.timeout.as_nanos()).unwrap_or(u64::MAX);
        let deadline = closed.0.saturating_add(timeout);
        let limit = Instant::now() + self.builder.timeout;
        self.guards.controls.set(Phase::Closed, deadline)?;
        drain::land(&mut self.guards, &self.targets, limit)
            .await?
            .map_err(|stuck| self.stuck(&stuck))?;
        // Whoever has mapped one since, or made the kernel use one, which from now on nobody does.
        self.hold_who_maps(limit).await?;
        let used = UsedByKernel::gather();
        self.targets
            .iter()
            .try_for_each(|target| target.check_use(&used))?;
        for rounds in 1..=ROUNDS {
            let before = self.guards.controls.tally()?.touches;
            self.flush(limit).await?;
            if !self.is_clean()? || self.guards.were_skipped() {
                continue;
            }
            // Last: from the flush up to here nobody has modified. What is told from now on is a violation, so the time is
            // read before the tally.
            let since = events::now();
            let tally = self.guards.controls.tally()?;
            if tally.unnoted != 0 {
                return Err(self.not_frozen(
                    "more processes want to modify them than premod can keep track of".to_owned(),
                ));
            }
            if tally.renamed != self.renamed {
                // A name may stand for something else now, of which nobody would be told.
                self.names = Names::watch(&mut self.guards, &self.targets)
                    .map_err(|unknown| self.builder.unknown(&self.targets, unknown))?;
                self.renamed = tally.renamed;
                continue;
            }
            if kprobes_are_off() {
                return Err(self.not_frozen(format!(
                    "somebody has switched kprobes off (echo 1 > {KPROBES})"
                )));
            }
            if tally.touches == before {
                self.guards.stop_watching_calls();
                let frozen = Frozen {
                    closed,
                    since,
                    deadline: events::MonotonicNs(deadline),
                    rounds,
                };
                self.frozen = Some(frozen);
                return Ok((frozen, tally));
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
        let unclean = self.unclean;
        Ok(!self.any(|look| look.mapping_flags & unclean != 0)?)
    }

    /// Whether any of the files looks so.
    pub(super) fn any(&mut self, looks: impl Fn(&Look) -> bool) -> Result<bool, Error> {
        for target in &self.targets {
            if looks(&self.guards.look(target.as_fd())?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The freezes of other premods.
    fn others(&self) -> Others {
        Others::than(self.pins.path())
    }

    /// Who uses the files in these ways.
    pub(super) async fn users(
        &mut self,
        kinds: &[UseKind],
        limit: Instant,
    ) -> Result<Vec<User>, Error> {
        users(&mut self.guards, &self.inodes, kinds, limit)
            .await
            .map_err(|unknown| self.builder.unknown(&self.targets, unknown))
    }

    /// Holds processes beforehand: all that have a file mapped, or those whose stores could not be stopped one by one,
    /// because another thread could use the page while one faults, or because a tracer decides whether they stop.
    async fn hold_who_maps(&mut self, limit: Instant) -> Result<(), Error> {
        if self.builder.mmap == MmapPolicy::Report || !self.any(|look| look.mappings > 0)? {
            return Ok(());
        }
        let mut asked = HashSet::new();
        // Whoever is listed may have a child that is not, until it stands still.
        loop {
            let mut users = self.users(&[UseKind::Mapped], limit).await?;
            users.retain(|user| {
                user.is_held_for_its_mapping(self.builder.mmap)
                    && asked.insert((user.pid, user.started))
            });
            if users.is_empty() {
                return Ok(());
            }
            let mut refused: Vec<&User> = users.iter().filter(|user| user.pid != 1).collect();
            let mut late = Vec::new();
            if let Some(keeper) = &mut self.keeper {
                (refused, late) = keeper.hold(&refused, limit).await;
            }
            let others = self.others();
            let mut stopped = Vec::new();
            for user in refused {
                if stop::stop(&mut self.guards.controls, &others, user)? {
                    stopped.push(user);
                }
            }
            late.extend(stop::wait_until_stopped(&stopped, limit).await);
            if let Some(user) = late.first() {
                return Err(self.not_frozen(format!(
                    "process {} ({}), which has one mapped, does not stop",
                    user.pid,
                    user.name()
                )));
            }
        }
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

    /// Who is held at the moment.
    pub(super) fn held(&self) -> Vec<(u32, HeldProcess)> {
        self.guards.controls.all_held()
    }

    /// What was counted so far.
    pub(super) fn tally(&self) -> Result<Tally, Error> {
        self.guards.controls.tally()
    }

    /// The files whose paths do not lead to them any more, by their numbers.
    pub(super) fn replaced(&self) -> Vec<usize> {
        let files = self.targets.iter().enumerate();
        files
            .filter(|(_, target)| !target.is_in_its_place())
            .map(|(number, _)| number)
            .collect()
    }

    /// Flushes again: a page whose store was stopped can be stored to by others until it is
    /// write-protected again.
    pub(super) fn protect_again(&self) {
        let limit = Instant::now() + self.builder.timeout;
        let flusher = self.flusher.clone();
        let protected = self.guards.protected();
        // If it fails, the page stays as it is: whoever continues its process is told of as a violation.
        tokio::spawn(async move {
            let began = events::now();
            if matches!(flusher.flush(limit).await, Flushed::Done) {
                protected.before(began.0);
            }
        });
    }

    /// Lets everybody pass, and continues who was stopped; who that was, and what was counted up to then.
    ///
    /// # Errors
    /// If the kernel side cannot be told; the keeper lets everybody go all the same.
    pub(super) fn open(&mut self) -> Result<(Recovered, Tally), Error> {
        let opened = self.guards.controls.set(Phase::Open, 0);
        let released = match self.keeper.take() {
            Some(keeper) => keeper.dismiss(&mut self.guards.controls),
            None => Recovered::default(),
        };
        opened?;
        Ok((released, self.tally()?))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.dismiss(&mut self.guards.controls);
        }
    }
}
