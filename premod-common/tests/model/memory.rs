//! What the properties remember of the past.

use crate::{property::Broken, state::BIRTHS};

/// What the properties remember; the protocol knows nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Memory {
    pub(crate) broken: Option<Broken>,
    /// What was said since the inode became clean.
    pub(crate) covered: Covered,
    /// Somebody else than premod modified it since.
    pub(crate) modified: bool,
    /// A modification before which nothing was said waits for a late event.
    pub(crate) owed: bool,
    /// The last unpaged change was announced after the last sync's hook had run.
    pub(crate) waits: bool,
    /// Something happened that may end a period, since the last generation began.
    pub(crate) stirred: bool,
    /// An unpaged change slipped behind a sync without an event (see docs/protocol.md).
    pub(crate) slipped: bool,
    /// An event said "before" though a modification had overtaken it.
    pub(crate) misdated: bool,
    /// The mapping changed between the look and the swap, where that matters (see docs/protocol.md).
    pub(crate) stale: bool,
    /// A generation was counted as lost more than once.
    pub(crate) recounted: bool,
    /// The promises about events do not hold for the rest of the run, because
    /// - a compare-and-swap loop gave up, or a program was skipped (an eviction's too): both are counted;
    /// - the inode became clean while an announcement was in the making, between swap and verdict;
    /// - an unpaged change was overtaken: its generation may not know of it;
    /// - a look was [stale](Self::stale).
    pub(crate) excused: bool,
    /// Of each life of an entry, bits for each generation.
    pub(crate) seen: [SeenBits; BIRTHS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct SeenBits {
    pub(crate) accepted: u16,
    pub(crate) echoed: u16,
    pub(crate) failed: u16,
    pub(crate) counted: u16,
}

/// What the reader remembers of a generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) accepted: bool,
    pub(crate) echoed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Covered {
    Nothing,
    Loss,
    Event,
}
