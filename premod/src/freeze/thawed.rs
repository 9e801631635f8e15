//! The end of a freeze.

use super::{
    claims::{
        control::{Incoming, Reply, Server},
        registry::Claim,
    },
    events::{Event, Over},
    freezer::Freezer,
    gate::Gate,
    hold::keeper::Recovered,
    report::SetReport,
};
use crate::error::Error;

/// A freeze that has ended: everybody passes.
#[must_use = "whether the files were modified stands in its report"]
pub struct Thawed {
    /// How it was. If it [is violated](SetReport::is_violated), what was read of the files is not safe.
    pub report: SetReport,
    /// Who was let go, and who was not.
    pub released: Recovered,
    /// What has happened up to the thaw and was not told before.
    pub last: Vec<Event>,
    /// What had ended it, if it was not its program.
    pub over: Option<Over>,
    gate: Option<Gate>,
    claim: Claim,
    server: Server,
    kept: Result<(), Error>,
}

impl Thawed {
    pub(super) fn new(
        freezer: Freezer,
        report: SetReport,
        released: Recovered,
        last: Vec<Event>,
    ) -> Self {
        let Freezer {
            gate,
            claim,
            mut server,
            over,
            asked,
            ..
        } = freezer;
        let nobody_knows = gate.builder.unattended && over != Some(Over::Asked);
        let kept = match nobody_knows && report.is_violated() {
            true => claim.keep(&report),
            false => Ok(()),
        };
        let waiting = std::iter::from_fn(|| server.waiting()).map(|Incoming { reply, .. }| reply);
        let waiting: Vec<Reply> = waiting.collect();
        for reply in asked.into_iter().chain(waiting) {
            reply.send(&report);
        }
        Self {
            report,
            released,
            last,
            over,
            gate: Some(gate),
            claim,
            server,
            kept,
        }
    }

    /// Takes the programs off, for which the kernel takes its time. They keep nobody out any more.
    pub fn detach(&mut self) {
        self.gate = None;
    }

    /// Waits until those who have asked have the answer, for a second at most, and gives the files free for other freezes.
    /// (Dropping it does the same, and does not wait.)
    ///
    /// # Errors
    /// If the report could not be kept for whoever comes ([`FreezerBuilder::unattended`](super::FreezerBuilder::unattended)).
    pub async fn finish(mut self) -> Result<(), Error> {
        // First, because whoever claims the files next guards them.
        self.detach();
        self.server.finish().await;
        drop(self.claim);
        self.kept
    }
}
