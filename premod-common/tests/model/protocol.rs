//! The protocol under test, as a table, so that a single rule can be changed on purpose.

use premod_common::generation::{self, Mapping, Step, Touch, Word};

use crate::{memory::Seen, state::Kind};

/// The pure functions, and what touch.rs, the hooks and duplicates.rs do around them.
#[derive(Clone, Copy)]
pub(crate) struct Protocol {
    pub(crate) touch: fn(Word, Mapping, Touch) -> Step,
    pub(crate) dirtied: fn(Word, Mapping, bool) -> Step,
    pub(crate) announced: fn(Word, u64, bool) -> Step,
    pub(crate) synced: fn(Word) -> Step,
    /// `ATTEMPTS` of touch.rs.
    pub(crate) attempts: u8,
    /// `generic_write_checks` and `notify_change` touch again, under the inode lock.
    pub(crate) touches_again: bool,
    /// The net runs before the mapping gets its mark.
    pub(crate) net_precedes_mark: bool,
    /// `inode_free_security` deletes the entry.
    pub(crate) deletes_evicted: bool,
    /// `find` throws an entry away whose identity differs.
    pub(crate) compares_identity: bool,
    /// `announced` is the time before the swap rather than after it.
    pub(crate) clock_precedes_swap: bool,
    /// `Duplicates::is_duplicate` of premod/src/events/duplicates.rs, but for its bounded memory.
    pub(crate) is_duplicate: fn(Seen, Kind) -> bool,
}

/// What is compiled into premod.
pub(crate) const AS_COMPILED: Protocol = Protocol {
    touch: generation::touch,
    dirtied: generation::dirtied,
    announced: generation::announced,
    synced: generation::synced,
    attempts: 4,
    touches_again: true,
    net_precedes_mark: true,
    deletes_evicted: true,
    compares_identity: true,
    clock_precedes_swap: true,
    is_duplicate: |seen, _| seen.accepted,
};
