//! A step of the generation protocol as one number.

use crate::generation::{Announcement, Step, Word};

/// Where a step's kind stands in [`Step::to_bits`]. No inode has 2^53 generations.
const KIND_SHIFT: u32 = 61;

impl Step {
    /// The step as one number, which is all that one BPF function can return to another.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        let (kind, word) = match self {
            Self::Nothing => (0, Word(0)),
            Self::Store(word) => (1, word),
            Self::Announce(word, Announcement::First) => (2, word),
            Self::Announce(word, Announcement::Echo) => (3, word),
            Self::Announce(word, Announcement::Retry) => (4, word),
            Self::Announce(word, Announcement::Late) => (5, word),
        };
        kind << KIND_SHIFT | word.0
    }

    /// The step that [`Step::to_bits`] has made the number of.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        let word = Word(bits & ((1 << KIND_SHIFT) - 1));
        match bits >> KIND_SHIFT {
            0 => Self::Nothing,
            1 => Self::Store(word),
            2 => Self::Announce(word, Announcement::First),
            3 => Self::Announce(word, Announcement::Echo),
            4 => Self::Announce(word, Announcement::Retry),
            _ => Self::Announce(word, Announcement::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_comes_back_from_its_bits() {
        let word = Word((1 << KIND_SHIFT) - 1);
        let announcements = [
            Announcement::First,
            Announcement::Echo,
            Announcement::Retry,
            Announcement::Late,
        ];
        let announce = announcements.map(|announcement| Step::Announce(word, announcement));
        for step in [Step::Nothing, Step::Store(word)]
            .into_iter()
            .chain(announce)
        {
            assert_eq!(Step::from_bits(step.to_bits()), step);
        }
    }
}
