//! The engine: a freeze from its beginning to its end, for programs that rely on it.

use std::{ffi::OsString, future::pending, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::{
    builder::{FreezerBuilder, Until},
    claims::{
        control::{Incoming, Reply, Request, Server},
        registry::Claim,
    },
    events::{Event, How, KeptOut, Listener, Over, Why},
    gate::{Frozen, Gate},
    report::{SetReport, account::Account},
    thawed::Thawed,
};
use crate::{
    error::Error,
    events::{self, MonotonicNs, Op},
};

/// How often it is looked for what nobody tells.
const LOOK: Duration = Duration::from_millis(100);

/// Files that are about to be frozen, or are; whoever wants to modify them is kept out by programs in the kernel.
///
/// It has to hear of what happens: while nobody awaits [`Freezer::next`], nobody is told either how the freeze is. The
/// deadline is kept, and whoever was held let go, whatever becomes of this process.
///
/// What this process starts once the programs hang is its own, however many generations later. If that, or this process
/// itself, wants to modify one of the files, the call fails, with EBUSY unless another errno is
/// [chosen](FreezerBuilder::deny): to wait would be to wait for itself.
///
/// Dropping it thaws the files.
pub struct Freezer {
    pub(super) gate: Gate,
    pub(super) listener: Listener,
    pub(super) account: Account,
    pub(super) claim: Claim,
    pub(super) server: Server,
    /// There as soon as the files are frozen.
    pub(super) watch: Option<Watch>,
    pub(super) over: Option<Over>,
    /// Who has told it to thaw, and waits for the answer.
    pub(super) asked: Vec<Reply>,
}

/// What is waited for while files are frozen.
pub(super) struct Watch {
    deadline: Instant,
    look: Interval,
}

impl Watch {
    fn until(deadline: MonotonicNs) -> Self {
        let left = Duration::from_nanos(deadline.0.saturating_sub(events::now().0));
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self {
            deadline: Instant::now() + left,
            look,
        }
    }
}

impl Freezer {
    /// Begins to describe a freeze.
    #[must_use]
    pub fn builder() -> FreezerBuilder {
        FreezerBuilder::new()
    }

    /// Keeps modifiers out and waits until the files are clean and still. If that cannot be had in time,
    /// everybody passes again. Files that are frozen already stay so.
    ///
    /// # Errors
    /// [`Error::NotFrozenInTime`] if it cannot be had in time; whatever else goes wrong.
    pub async fn close(&mut self) -> Result<Frozen, Error> {
        // To begin anew would be to open them.
        if let Some(frozen) = self.gate.frozen {
            return Ok(frozen);
        }
        let (frozen, counted) = self.gate.close().await?;
        self.listener.decoder.begin(frozen.since, &counted);
        self.watch = Some(Watch::until(frozen.deadline));
        Ok(frozen)
    }

    /// Since when and how the files are frozen, if they are.
    #[must_use]
    pub fn frozen(&self) -> Option<Frozen> {
        self.gate.frozen
    }

    /// Names the command that relies on the freeze, for reports.
    pub fn command_is(&mut self, pid: u32, words: &[OsString]) {
        self.account.command_is(pid, words);
    }

    /// How the freeze is now.
    #[must_use]
    pub fn report(&self) -> SetReport {
        self.account.report(&self.gate)
    }

    /// Waits for the next event; for ever, if the files are not frozen. May be dropped and called again without losing
    /// one. Meanwhile it answers those who ask how the freeze is.
    ///
    /// After [`Event::Over`] nothing else comes: what happens from then on is in [`Thawed::last`].
    ///
    /// # Errors
    /// If the kernel side cannot be heard or asked any more.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(over) = self.over {
                return Ok(Event::Over(over));
            }
            let Some(watch) = &mut self.watch else {
                return pending().await;
            };
            tokio::select! {
                // In this order, so that no flood of what happens keeps the end away: what has happened before it
                // is told all the same.
                biased;
                () = sleep_until(watch.deadline) => self.over = Some(Over::Expired),
                Incoming { request, reply } = self.server.next() => match request {
                    Request::Status => reply.send(&self.report()),
                    Request::Thaw => {
                        self.asked.push(reply);
                        self.over = Some(Over::Asked);
                    }
                },
                event = self.listener.next(&self.gate.names) => {
                    let event = event?;
                    if protects_no_more(&event) {
                        self.gate.protect_again();
                    }
                    if self.account.heed(&event) {
                        return Ok(event);
                    }
                }
                _ = watch.look.tick() => self.examine()?,
            }
        }
    }

    /// Looks for violations that nobody tells: skipped programs, lost records, replaced files, the end of the time.
    fn examine(&mut self) -> Result<(), Error> {
        // First, because whoever has changed a name was told of before he did it, and who he was is worth to know.
        let replaced = self.gate.replaced();
        self.listener.catch_up(&self.gate.names);
        let Some(frozen) = self.gate.frozen else {
            return Ok(());
        };
        let mut found = Vec::new();
        if self.gate.guards.were_skipped() {
            found.push((Why::Skipped, None));
        }
        if self.listener.decoder.has_lost(&self.gate.tally()?) {
            found.push((Why::Lost, None));
        }
        found.extend(replaced.iter().map(|&file| (Why::Replaced, Some(file))));
        let is_late = events::now().0 >= frozen.deadline.0;
        // Else the end of the time is an end like any other.
        if is_late && self.gate.builder.until == Until::Done {
            found.push((Why::Expired, None));
        }
        for (why, file) in found {
            let violation = self.listener.decoder.noticed(why, file);
            self.listener.add(Event::Violated(violation));
        }
        Ok(())
    }

    /// Lets everybody go, because whoever relies on the freeze is done.
    ///
    /// If it was [over](Event::Over) before, that was too early for them, and a violation.
    ///
    /// # Errors
    /// If the kernel side cannot be told, or it is not known whether the files were modified. Everybody is let go all
    /// the same: by the keeper, or at the deadline.
    pub fn thaw(self) -> Result<Thawed, Error> {
        let early = self.over.is_some();
        self.end(early)
    }

    /// Lets everybody go before whoever relies on the freeze is done, which is a violation.
    ///
    /// # Errors
    /// As for [`Freezer::thaw`].
    pub fn abandon(self) -> Result<Thawed, Error> {
        self.end(true)
    }

    fn end(mut self, early: bool) -> Result<Thawed, Error> {
        // Whatever has gone wrong: what happens up to the thaw counts.
        let examined = self.examine();
        let mut last: Vec<Event> = self.listener.take_pending().into();
        last.retain(|event| self.account.heed(event));
        let early = early && self.gate.frozen.is_some() && self.gate.builder.until == Until::Done;
        if early && !self.account.is_violated() {
            let violation = self.listener.decoder.noticed(Why::ThawedEarly, None);
            let event = Event::Violated(violation);
            self.account.heed(&event);
            last.push(event);
        }
        let report = self.report();
        let (released, tally) = self.gate.open()?;
        let report = self.account.conclude(report, &tally);
        if let Err(error) = examined {
            if !report.is_violated() {
                return Err(error);
            }
            tracing::error!("{error}");
        }
        Ok(Thawed::new(self, report, released, last))
    }
}

/// Whether others can store to a page now, until it is write-protected again: its fault was stopped, and has made it
/// writable.
fn protects_no_more(event: &Event) -> bool {
    matches!(
        event,
        Event::KeptOut(KeptOut {
            how: How::Held,
            op: Op::Mmap,
            ..
        })
    )
}
