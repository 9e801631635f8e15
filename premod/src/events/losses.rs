//! Watches the counters that tell what was lost.

use std::os::fd::{AsFd, OwnedFd};

use aya::programs::Program;
use premod_common::counters::Counters;

use super::record::LostReason;
use crate::{
    error::Error,
    kernel::{bpf::recursion_misses, environment::kprobes_are_off, mapped::MappedArray},
};

/// One kind of loss since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) count: u64,
    pub(crate) cpu: Option<u32>,
    pub(crate) reason: LostReason,
}

/// Programs that do the same, of which something is lost if the kernel skips all.
pub(crate) struct Skippable {
    pub(crate) hook: &'static str,
    programs: Vec<Skips>,
}

/// How often the kernel has skipped a program.
struct Skips {
    program: OwnedFd,
    seen: u64,
    /// Those of the last look that no loss was made of: its twin may have been skipped by the same call, just after the
    /// look at it.
    alone: u64,
}

impl Skippable {
    pub(crate) const fn new(hook: &'static str) -> Self {
        Self {
            hook,
            programs: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, program: OwnedFd) {
        self.programs.push(Skips {
            program,
            seen: 0,
            alone: 0,
        });
    }

    /// How many calls may have been missed by all of the programs since the last look.
    fn missed(&mut self) -> u64 {
        let now = |skips: &Skips| recursion_misses(&skips.program).unwrap_or(skips.seen);
        let now: Vec<_> = self.programs.iter().map(now).collect();
        missed(&mut self.programs, &now)
    }
}

fn missed(programs: &mut [Skips], now: &[u64]) -> u64 {
    let grown = |(skips, now): (&Skips, &u64)| now.saturating_sub(skips.seen);
    let grown: Vec<_> = programs.iter().zip(now).map(grown).collect();
    let recent = programs.iter().zip(&grown);
    let missed = recent.map(|(skips, grown)| skips.alone + grown).min();
    let missed = missed.unwrap_or(0);
    for (skips, grown) in programs.iter_mut().zip(grown) {
        skips.seen += grown;
        skips.alone = (skips.alone + grown - missed).min(grown);
    }
    missed
}

/// The counters of the kernel side and of the kernel itself.
pub(crate) struct Losses {
    counters: MappedArray<Counters>,
    lost_before: Vec<u64>,
    malformed: u64,
    programs: Vec<Skippable>,
    /// Whether programs hang on kprobes.
    on_kprobes: bool,
    kprobes_were_off: bool,
}

impl Losses {
    /// `on_kprobes`: whether programs hang on them.
    pub(crate) fn new(
        counters: MappedArray<Counters>,
        programs: Vec<Skippable>,
        on_kprobes: bool,
    ) -> Self {
        Self {
            on_kprobes,
            kprobes_were_off: false,
            counters,
            lost_before: Vec::new(),
            malformed: 0,
            programs,
        }
    }

    /// Sum over all CPUs.
    pub(crate) fn total(&self) -> Counters {
        self.counters
            .values()
            .fold(Counters::default(), Counters::plus)
    }

    /// Takes note of an item of the ring buffer that is none of ours.
    pub(crate) fn malformed(&mut self) {
        self.malformed += 1;
    }

    /// What premod itself and the kernel side have counted since the last look: announcements that found the ring
    /// buffer full, by CPU, and items that are none of ours.
    pub(crate) fn noticed(&mut self) -> Vec<Loss> {
        let now = self.counters.values().map(|counters| counters.lost);
        let mut losses = grown(&mut self.lost_before, now);
        let malformed = std::mem::take(&mut self.malformed);
        if malformed > 0 {
            losses.push(Loss {
                count: malformed,
                cpu: None,
                reason: LostReason::Malformed,
            });
        }
        losses
    }

    /// Programs that the kernel skipped since the last look, or does not call any more.
    pub(crate) fn skipped(&mut self) -> Vec<Loss> {
        let mut losses = Vec::new();
        let off = self.on_kprobes && kprobes_are_off();
        if off && !self.kprobes_were_off {
            losses.push(Loss {
                count: 1,
                cpu: None,
                reason: LostReason::KprobesOff,
            });
        }
        self.kprobes_were_off = off;
        for programs in &mut self.programs {
            let count = programs.missed();
            if count > 0 {
                losses.push(Loss {
                    count,
                    cpu: None,
                    reason: LostReason::Recursion {
                        hook: programs.hook,
                    },
                });
            }
        }
        losses
    }
}

/// What was counted on each CPU since the last look.
fn grown(before: &mut Vec<u64>, now: impl Iterator<Item = u64>) -> Vec<Loss> {
    let mut losses = Vec::new();
    for (cpu, now) in now.enumerate() {
        if cpu == before.len() {
            before.push(0);
        }
        let count = now.saturating_sub(before[cpu]);
        if count > 0 {
            before[cpu] = now;
            losses.push(Loss {
                count,
                cpu: Some(cpu as u32),
                reason: LostReason::BufferFull,
            });
        }
    }
    losses
}

/// A descriptor of a loaded program, to ask for its [`recursion_misses`].
///
/// # Errors
/// If it is not loaded, or there are no more descriptors.
pub(crate) fn watch(program: &Program) -> Result<OwnedFd, Error> {
    let failed = |error: &dyn std::error::Error| Error::kernel("cannot watch a program", error);
    let program = program.fd().map_err(|error| failed(&error))?;
    let program = program.as_fd().try_clone_to_owned();
    program.map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_growth_is_a_loss() {
        let loss = |count, cpu| Loss {
            count,
            cpu: Some(cpu),
            reason: LostReason::BufferFull,
        };
        let mut before = Vec::new();
        let mut look = |now: [u64; 2]| grown(&mut before, now.into_iter());
        assert!(look([0, 0]).is_empty());
        assert_eq!(look([1, 5]), [loss(1, 0), loss(5, 1)]);
        assert_eq!(look([1, 8]), [loss(3, 1)]);
        assert!(look([1, 8]).is_empty());
    }

    #[test]
    fn a_call_is_missed_when_all_programs_were_skipped_at_about_the_same_time() {
        let skips = || Skips {
            program: std::fs::File::open("/dev/null").unwrap().into(),
            seen: 0,
            alone: 0,
        };
        let mut one = [skips()];
        assert_eq!(
            [0, 2, 2, 3].map(|now| missed(&mut one, &[now])),
            [0, 2, 0, 1]
        );

        let looks: [([u64; 2], u64); 9] = [
            ([1, 0], 0), // Now, or just before:
            ([1, 1], 1),
            ([1, 1], 0),
            ([2, 1], 0),
            ([2, 1], 0), // Long ago.
            ([2, 2], 0),
            ([5, 4], 3), // The one of the look before, too.
            ([5, 5], 0),
            ([6, 5], 1),
        ];
        let mut two = [skips(), skips()];
        for (look, (now, expected)) in looks.into_iter().enumerate() {
            assert_eq!(missed(&mut two, &now), expected, "look {look}");
        }
    }
}
