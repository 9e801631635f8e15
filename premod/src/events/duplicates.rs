//! Drops all announcements of a generation but the one that comes first.
//!
//! When two CPUs touch a clean inode at once, both announce, so that neither modification comes before its
//! event; one of the two announcements is marked as an echo. Their order in the ring buffer is open, and if
//! one of them did not fit, so is the order of the other and the repetition.

use std::hash::BuildHasher;

use premod_common::event::FirstDirtyRecord;
use rustc_hash::FxBuildHasher;

/// How many announcements are remembered. The two come within the time that one takes, so that a few
/// per CPU would do.
const REMEMBERED: usize = 4096;

/// One generation of one life of an inode.
type Generation = (u64, u64, u64);

/// Remembers the last announcements.
///
/// They are numbered from 1, and each is linked to the one before it with the same hash: so nothing has to be done to
/// forget one, which is as frequent as to remember one.
pub(crate) struct Duplicates {
    /// How many there were.
    count: u64,
    /// The last ones, each at its number modulo their count, with the number before it.
    recent: Box<[(Generation, u64); REMEMBERED]>,
    /// The number of the last one with each hash, or 0.
    last: Box<[u64; REMEMBERED]>,
}

impl Default for Duplicates {
    fn default() -> Self {
        Self {
            count: 0,
            recent: Box::new([Default::default(); REMEMBERED]),
            last: Box::new([0; REMEMBERED]),
        }
    }
}

impl Duplicates {
    /// Whether this generation was delivered before.
    pub(crate) fn is_duplicate(&mut self, record: &FirstDirtyRecord) -> bool {
        // Generation 0 is not tracked: each announcement stands for itself.
        if record.generation == 0 {
            return false;
        }
        let generation = (record.inode_address, record.born, record.generation);
        let last = &mut self.last[FxBuildHasher.hash_one(generation) as usize % REMEMBERED];
        let forgotten = self.count.saturating_sub(REMEMBERED as u64);
        let mut number = *last;
        while number > forgotten {
            let (other, before) = self.recent[number as usize % REMEMBERED];
            if other == generation {
                return true;
            }
            number = before;
        }
        self.count += 1;
        self.recent[self.count as usize % REMEMBERED] = (generation, *last);
        *last = self.count;
        false
    }
}

#[cfg(test)]
mod tests {
    use premod_common::event::{FLAG_PRE, FLAG_RETRY};

    use super::*;

    fn record(generation: u64, flags: u8) -> FirstDirtyRecord {
        FirstDirtyRecord {
            inode_address: 1,
            born: 2,
            generation,
            flags,
            ..Default::default()
        }
    }

    #[test]
    fn the_second_of_a_pair_is_dropped_in_either_order() {
        let mut duplicates = Duplicates::default();
        assert!(!duplicates.is_duplicate(&record(1, 0)));
        assert!(duplicates.is_duplicate(&record(1, FLAG_PRE)));
        assert!(!duplicates.is_duplicate(&record(2, FLAG_PRE)));
        assert!(duplicates.is_duplicate(&record(2, 0)));
        assert!(duplicates.is_duplicate(&record(2, FLAG_PRE)));
        assert!(!duplicates.is_duplicate(&record(3, 0)));
    }

    #[test]
    fn the_first_event_is_dropped_if_its_retry_was_faster() {
        let mut duplicates = Duplicates::default();
        assert!(!duplicates.is_duplicate(&record(1, FLAG_RETRY)));
        assert!(duplicates.is_duplicate(&record(1, 0)));
    }

    #[test]
    fn untracked_announcements_all_count() {
        let mut duplicates = Duplicates::default();
        assert!(!duplicates.is_duplicate(&record(0, 0)));
        assert!(!duplicates.is_duplicate(&record(0, FLAG_PRE)));
    }

    #[test]
    fn another_life_of_the_inode_is_another_generation() {
        let mut duplicates = Duplicates::default();
        assert!(!duplicates.is_duplicate(&record(1, 0)));
        let reborn = FirstDirtyRecord {
            born: 3,
            ..record(1, FLAG_PRE)
        };
        assert!(!duplicates.is_duplicate(&reborn));
    }

    #[test]
    fn as_many_are_remembered_as_promised_and_no_more() {
        let mut duplicates = Duplicates::default();
        let last = 3 * REMEMBERED as u64;
        for generation in 1..=last {
            assert!(!duplicates.is_duplicate(&record(generation, FLAG_PRE)));
        }
        let oldest = last - REMEMBERED as u64 + 1;
        for generation in oldest..=last {
            assert!(duplicates.is_duplicate(&record(generation, 0)));
        }
        assert!(!duplicates.is_duplicate(&record(oldest - 1, 0)));
    }
}
