//! The generation protocol of premod-common as calls.
//!
//! A function that the linker keeps is verified once in a program, by itself, and what it returns is a number of which
//! the verifier knows nothing. Compiled into its callers, each of the protocol's ways would be followed through all
//! that comes after it, four times.

use premod_common::generation::{self, Mapping, Step, Touch, Word};

use crate::emit::Change;

/// What is asked of the protocol: how the mapping looks, and who changes it how.
#[derive(Clone, Copy)]
pub(crate) struct How(u64);

const DIRTY: u64 = 1 << 0;
const AGED: u64 = 1 << 1;
const UNPAGED: u64 = 1 << 2;
const OWN: u64 = 1 << 3;

impl How {
    #[inline(always)]
    pub(crate) fn new(mapping: Mapping, change: Change, own: bool) -> Self {
        let bit = |is: bool, bit| if is { bit } else { 0 };
        Self(
            bit(mapping.dirty, DIRTY)
                | bit(mapping.aged, AGED)
                | bit(change.unpaged, UNPAGED)
                | bit(own, OWN),
        )
    }

    #[inline(always)]
    const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    #[inline(always)]
    const fn mapping(self) -> Mapping {
        Mapping {
            dirty: self.has(DIRTY),
            aged: self.has(AGED),
        }
    }
}

/// A question to the protocol.
pub(crate) type Protocol = fn(Word, How) -> Step;

/// [`generation::touch`]
#[inline(always)]
pub(crate) fn touch(word: Word, how: How) -> Step {
    Step::from_bits(step_of_touch(word.0, how.0))
}

/// [`generation::dirtied`]
#[inline(always)]
pub(crate) fn dirtied(word: Word, how: How) -> Step {
    Step::from_bits(step_of_dirtied(word.0, how.0))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step_of_touch(word: u64, how: u64) -> u64 {
    let how = How(how);
    let touch = Touch {
        unpaged: how.has(UNPAGED),
        own: how.has(OWN),
    };
    generation::touch(Word(word), how.mapping(), touch).to_bits()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step_of_dirtied(word: u64, how: u64) -> u64 {
    let how = How(how);
    generation::dirtied(Word(word), how.mapping(), how.has(OWN)).to_bits()
}
