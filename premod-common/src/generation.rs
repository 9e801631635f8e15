//! The generation protocol: what decides whether a touch is announced.
//!
//! Every tracked inode has one [`Word`]: a generation and a phase. A *touch* is a hook saying that the
//! inode's data is about to be modified. The functions here are pure: they look at a word and at the
//! mapping, and say what has to happen. Whoever calls them owns the compare-and-swap loop.
//!
//! ```text
//!            touch: announce                    announced(delivered)
//!   Clean ------------------------> Emitting ------------------------> Announced
//!     ^                              ^    |                                |
//!     | own touch, settled    touch: |    | announced(not delivered)       | touch, settled:
//!     |                    announce  |    v                                | announce the next
//!     +---- Announced               Lost <+                                | generation
//!                                                 Emitting <---------------+
//! ```
//!
//! There is no hook at the moment when an inode becomes clean, so nobody sets `Clean` from outside. The
//! touch itself looks whether the generation has *settled* since it was announced ([`Word::settled`]).

/// How the inode looked when a hook ran, reduced to what the protocol needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Some page of the mapping carries the dirty mark: `i_mapping->i_pages.xa_flags`, the bit of
    /// `PAGECACHE_TAG_DIRTY`. A page whose writeback has begun does not carry it any more, so a change
    /// that overtakes a running writeback is announced rather than swallowed.
    pub dirty: bool,
    /// Whatever was announced before is on disk by now: the whole filesystem has been synced since, or so
    /// much time has passed that the kernel has written it back by itself. Pages are not concerned; they
    /// have their mark.
    pub aged: bool,
}

/// Who touches, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The change may leave no dirty page behind (truncate, fallocate, clone, direct I/O), so that the
    /// mapping's mark cannot tell when it has reached the disk.
    pub unpaged: bool,
    /// The touch is premod's own: it is not announced, but it must not hide anybody else's either.
    pub own: bool,
}

/// What an announcement says about its timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// The first of its generation, before the modification.
    First,
    /// The generation's announcement is still on its way from another CPU. This one says the same, so
    /// that this modification too comes after an event. The receiver drops whichever comes second.
    Echo,
    /// An earlier announcement of this generation could not be delivered. The modification that it
    /// should have preceded may have happened.
    Retry,
    /// Pages were dirtied without a touch before: the modification has begun already.
    Late,
}

/// What has to be done after looking at a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing. The hot path: the inode is dirty and announced.
    Nothing,
    /// Store this word; nothing to announce.
    Store(Word),
    /// Store this word, deliver an announcement of its generation, then apply [`announced`].
    Announce(Word, Announcement),
}

/// A generation (upper 56 bits) and a phase with flags (lower 8 bits).
///
/// A zero word is what a newly tracked inode has: clean, generation 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Word(pub u64);

const PHASE: u64 = 0b11;
const CLEAN: u64 = 0;
const EMITTING: u64 = 1;
const ANNOUNCED: u64 = 2;
const LOST: u64 = 3;
/// A page was dirtied in this generation.
const PAGED: u64 = 1 << 2;
/// A change was announced in this generation that may leave no dirty page.
const UNPAGED: u64 = 1 << 3;
/// The inode was synced since the last unpaged change was announced.
const SYNCED: u64 = 1 << 4;
/// The dirty mark was seen after [`PAGED`] was set.
const MARKED: u64 = 1 << 5;
const GENERATION_SHIFT: u32 = 8;

impl Word {
    /// The number of clean-to-dirty transitions so far.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }

    /// Whether the current generation's announcement failed and nobody has repeated it yet.
    #[inline(always)]
    #[must_use]
    pub const fn is_lost(self) -> bool {
        self.phase() == LOST
    }

    /// Whether an announced generation is over, so that the next change begins a new one.
    ///
    /// Dirty pages decide, if pages are all there was. A change without pages is over when the inode has
    /// been synced, or when it has aged.
    #[inline(always)]
    #[must_use]
    pub const fn settled(self, mapping: Mapping) -> bool {
        self.phase() == ANNOUNCED
            && !mapping.dirty
            && (self.has(SYNCED) || mapping.aged || !self.age_matters())
    }

    /// Whether [`Mapping::aged`] has a say in [`Word::settled`], if no page is dirty. It costs a look at the
    /// clock, and the usual case, pages only, does without.
    #[inline(always)]
    #[must_use]
    pub const fn age_matters(self) -> bool {
        !self.has(PAGED) || self.has(UNPAGED)
    }

    /// Whether a touch that leaves a dirty page has nothing to do for as long as some page is dirty.
    #[inline(always)]
    #[must_use]
    pub const fn silent_while_dirty(self) -> bool {
        self.phase() == ANNOUNCED && self.has(PAGED)
    }

    const fn phase(self) -> u64 {
        self.0 & PHASE
    }

    const fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    const fn with(self, flag: u64) -> Self {
        Self(self.0 | flag)
    }

    const fn without(self, flag: u64) -> Self {
        Self(self.0 & !flag)
    }

    const fn in_phase(self, phase: u64) -> Self {
        Self(self.0 & !PHASE | phase)
    }

    /// Clean again, at the same generation.
    const fn cleaned(self) -> Self {
        Self(self.generation() << GENERATION_SHIFT | CLEAN)
    }

    /// The next generation, on its way to be announced.
    const fn next(self, flags: u64) -> Self {
        Self((self.generation() + 1) << GENERATION_SHIFT | EMITTING | flags)
    }
}

/// A hook says that the inode's data is about to be modified.
#[inline(always)]
#[must_use]
pub const fn touch(word: Word, mapping: Mapping, touch: Touch) -> Step {
    let mut flags = if touch.unpaged { UNPAGED } else { 0 };
    if mapping.dirty {
        // The net runs only for pages that were clean. Those that are dirty already, because premod itself
        // wrote them, or somebody before premod was there, end the generation too when they become clean.
        flags |= PAGED | MARKED;
    }
    if word.phase() == ANNOUNCED && !word.settled(mapping) {
        // A new unpaged change has to wait for a sync of its own.
        if touch.unpaged && (!word.has(UNPAGED) || word.has(SYNCED)) {
            return Step::Store(word.with(flags).without(SYNCED));
        }
        if mapping.dirty && !word.has(PAGED) {
            return Step::Store(word.with(flags));
        }
        return Step::Nothing;
    }
    if touch.own {
        // Leave the word so that the next touch by anybody else is announced.
        return if word.phase() == ANNOUNCED {
            Step::Store(word.cleaned())
        } else {
            Step::Nothing
        };
    }
    match word.phase() {
        EMITTING => Step::Announce(word.with(flags), Announcement::Echo),
        LOST => Step::Announce(word.in_phase(EMITTING).with(flags), Announcement::Retry),
        _ => Step::Announce(word.next(flags), Announcement::First),
    }
}

/// The kernel marks a page of the inode dirty; `mapping` is as it is just before that, or just after.
///
/// Between a page's [`PAGED`] and its mark the mapping looks as if it had become clean. A touch that looks
/// just then begins a generation that has a dirty page, but nobody to note it. Setting [`MARKED`] after the
/// mark changes the word, so that such a touch either swaps before, and the page is noted in its new
/// generation, or fails to swap, and looks again.
#[inline(always)]
#[must_use]
pub const fn dirtied(word: Word, mapping: Mapping, own: bool) -> Step {
    let flags = if mapping.dirty { PAGED | MARKED } else { PAGED };
    let noted = word.without(MARKED).with(flags);
    match word.phase() {
        EMITTING | ANNOUNCED if !word.settled(mapping) => {
            if noted.0 == word.0 {
                Step::Nothing
            } else {
                Step::Store(noted)
            }
        }
        ANNOUNCED if own => Step::Store(word.cleaned()),
        _ if own => Step::Nothing,
        LOST => Step::Announce(noted.in_phase(EMITTING), Announcement::Retry),
        _ => Step::Announce(word.next(flags), Announcement::Late),
    }
}

/// The announcement of `generation` was delivered, or it was not.
#[inline(always)]
#[must_use]
pub const fn announced(word: Word, generation: u64, delivered: bool) -> Step {
    if word.generation() != generation {
        // The inode has moved on.
        return Step::Nothing;
    }
    match word.phase() {
        EMITTING if !delivered => Step::Store(word.in_phase(LOST)),
        // An echo that was delivered makes up for a loss: a retry, perhaps after the inode has become clean,
        // would be dropped as its duplicate.
        EMITTING | LOST if delivered => Step::Store(word.in_phase(ANNOUNCED)),
        // Somebody else's echo of the same generation got through first.
        _ => Step::Nothing,
    }
}

/// The inode is being synced.
#[inline(always)]
#[must_use]
pub const fn synced(word: Word) -> Step {
    if word.phase() != ANNOUNCED || !word.age_matters() || word.has(SYNCED) {
        return Step::Nothing;
    }
    Step::Store(word.with(SYNCED))
}

/// The inode was synced, and its mapping has the dirty mark all the same: a page has become dirty meanwhile, or the mark was
/// left behind. The word becomes that of a change of premod's own, so that the next touch is announced.
#[inline(always)]
#[must_use]
pub const fn doubted(word: Word) -> Step {
    if word.phase() == ANNOUNCED {
        Step::Store(word.cleaned())
    } else {
        Step::Nothing
    }
}

#[cfg(test)]
mod tests;
