//! Drops all announcements of a generation but the one that comes first.
//!
//! When two CPUs touch a clean inode at once, both announce, so that neither modification comes before its
//! event; one of the two announcements is marked as an echo. Their order in the ring buffer is open, and if
//! one of them did not fit, so is the order of the other and the repetition.

use std::collections::VecDeque;

use premod_common::event::FirstDirtyRecord;
use rustc_hash::FxHashSet;

/// How many announcements are remembered. The two come within the time that one takes, so that a few
/// per CPU would do.
const REMEMBERED: usize = 4096;

/// One generation of one life of an inode.
type Generation = (u64, u64, u64);

/// Remembers the last announcements.
#[derive(Default)]
pub(crate) struct Duplicates {
    order: VecDeque<Generation>,
    recent: FxHashSet<Generation>,
}

impl Duplicates {
    /// Whether this generation was delivered before.
    pub(crate) fn is_duplicate(&mut self, record: &FirstDirtyRecord) -> bool {
        // Generation 0 is not tracked: each announcement stands for itself.
        if record.generation == 0 {
            return false;
        }
        let generation = (record.inode_address, record.born, record.generation);
        if !self.recent.insert(generation) {
            return true;
        }
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.recent.remove(&oldest);
        }
        self.order.push_back(generation);
        false
    }
}

#[cfg(test)]
mod tests {
    use premod_common::event::{FLAG_ECHO, FLAG_RETRY};

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
        assert!(duplicates.is_duplicate(&record(1, FLAG_ECHO)));
        assert!(!duplicates.is_duplicate(&record(2, FLAG_ECHO)));
        assert!(duplicates.is_duplicate(&record(2, 0)));
        assert!(duplicates.is_duplicate(&record(2, FLAG_ECHO)));
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
        assert!(!duplicates.is_duplicate(&record(0, FLAG_ECHO)));
    }

    #[test]
    fn another_life_of_the_inode_is_another_generation() {
        let mut duplicates = Duplicates::default();
        assert!(!duplicates.is_duplicate(&record(1, 0)));
        let reborn = FirstDirtyRecord {
            born: 3,
            ..record(1, FLAG_ECHO)
        };
        assert!(!duplicates.is_duplicate(&reborn));
    }

    #[test]
    fn memory_is_bounded() {
        let mut duplicates = Duplicates::default();
        for generation in 1..=3 * REMEMBERED as u64 {
            assert!(!duplicates.is_duplicate(&record(generation, FLAG_ECHO)));
        }
        assert_eq!(duplicates.order.len(), REMEMBERED);
        assert_eq!(duplicates.recent.len(), REMEMBERED);
    }
}
