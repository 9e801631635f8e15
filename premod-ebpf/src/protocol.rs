//! The generation protocol of premod-common as calls.
//!
//! A function that the linker keeps is verified once in a program, by itself, and what it returns is a number of which
//! the verifier knows nothing. Compiled into its callers, each of the protocol's ways would be followed through all
//! that comes after it, four times.

use premod_common::generation::{self, Mapping, Step, Touch, Word};

/// What is asked of the protocol: what happens, how the mapping looks, and who changes it how.
#[derive(Clone, Copy)]
pub(crate) struct How(pub(crate) u64);

const AGED: u64 = 1 << 0;
const UNPAGED: u64 = 1 << 1;
/// By premod itself, or of no consequence.
const OWN: u64 = 1 << 2;
/// A page is marked dirty; else it is a touch.
const DIRTIED: u64 = 1 << 3;
/// A hook on a single page asks.
const PAGE: u64 = 1 << 4;
/// From here on: the mapping's dirty mark.
const DIRTY_SHIFT: u32 = 8;

impl How {
    /// A hook says that the inode's data is about to be modified.
    #[inline(always)]
    pub(crate) const fn touch(unpaged: bool) -> Self {
        Self(if unpaged { UNPAGED } else { 0 })
    }

    /// The same, for a page of it.
    #[inline(always)]
    pub(crate) const fn page() -> Self {
        Self(PAGE)
    }

    /// A page is about to be marked dirty.
    #[inline(always)]
    pub(crate) const fn dirtied() -> Self {
        Self(PAGE | DIRTIED)
    }

    #[inline(always)]
    pub(crate) const fn is_dirtied(self) -> bool {
        self.has(DIRTIED)
    }

    #[inline(always)]
    pub(crate) const fn is_of_a_page(self) -> bool {
        self.has(PAGE)
    }

    /// With the bit of the mapping's dirty mark, or 0. Not with a `bool`: of that the verifier would follow both values
    /// through all that comes after.
    #[inline(always)]
    pub(crate) const fn with_dirty(self, mark: u32) -> Self {
        Self(self.0 | (mark as u64) << DIRTY_SHIFT)
    }

    #[inline(always)]
    pub(crate) const fn aged(self) -> Self {
        Self(self.0 | AGED)
    }

    #[inline(always)]
    pub(crate) const fn own(self) -> Self {
        Self(self.0 | OWN)
    }

    #[inline(always)]
    pub(crate) const fn is_dirty(self) -> bool {
        self.0 >> DIRTY_SHIFT != 0
    }

    #[inline(always)]
    const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }
}

/// [`generation::touch`] or [`generation::dirtied`].
#[inline(always)]
pub(crate) fn step(word: Word, how: How) -> Step {
    Step::from_bits(step_as_bits(word.0, how.0))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step_as_bits(word: u64, how: u64) -> u64 {
    let (word, how) = (Word(word), How(how));
    let mapping = Mapping {
        dirty: how.is_dirty(),
        aged: how.has(AGED),
    };
    let step = if how.has(DIRTIED) {
        generation::dirtied(word, mapping, how.has(OWN))
    } else {
        let touch = Touch {
            unpaged: how.has(UNPAGED),
            own: how.has(OWN),
        };
        generation::touch(word, mapping, touch)
    };
    step.to_bits()
}
