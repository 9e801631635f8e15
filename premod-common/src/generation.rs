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

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN_MAPPING: Mapping = Mapping {
        dirty: false,
        aged: false,
    };
    const DIRTY_MAPPING: Mapping = Mapping {
        dirty: true,
        aged: false,
    };
    const WRITE: Touch = Touch {
        unpaged: false,
        own: false,
    };
    const TRUNCATE: Touch = Touch {
        unpaged: true,
        own: false,
    };
    const OWN: Touch = Touch {
        unpaged: false,
        own: true,
    };

    fn stored(step: Step) -> Word {
        match step {
            Step::Store(word) | Step::Announce(word, _) => word,
            Step::Nothing => panic!("expected a new word"),
        }
    }

    /// Touches, delivers and dirties a page.
    fn written(word: Word) -> Word {
        let word = stored(touch(word, CLEAN_MAPPING, WRITE));
        let word = stored(announced(word, word.generation(), true));
        stored(dirtied(word, CLEAN_MAPPING, false))
    }

    #[test]
    fn first_touch_announces_and_further_touches_do_not() {
        let step = touch(Word::default(), CLEAN_MAPPING, WRITE);
        assert!(
            matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 1)
        );
        let word = stored(announced(stored(step), 1, true));
        assert_eq!(
            touch(word, CLEAN_MAPPING, WRITE),
            Step::Nothing,
            "announced, not yet dirty"
        );
        let word = stored(dirtied(word, CLEAN_MAPPING, false));
        assert_eq!(touch(word, DIRTY_MAPPING, WRITE), Step::Nothing);
        let word = stored(dirtied(word, DIRTY_MAPPING, false));
        assert_eq!(dirtied(word, DIRTY_MAPPING, false), Step::Nothing);
    }

    #[test]
    fn a_clean_mapping_after_dirty_pages_begins_a_new_generation() {
        let word = written(Word::default());
        let step = touch(word, CLEAN_MAPPING, WRITE);
        assert!(
            matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 2)
        );
    }

    #[test]
    fn a_touch_during_delivery_echoes_the_same_generation() {
        let word = stored(touch(Word::default(), CLEAN_MAPPING, WRITE));
        let step = touch(word, CLEAN_MAPPING, WRITE);
        assert!(matches!(step, Step::Announce(word, Announcement::Echo) if word.generation() == 1));
    }

    #[test]
    fn a_lost_announcement_is_repeated_with_its_generation() {
        let word = stored(touch(Word::default(), CLEAN_MAPPING, WRITE));
        let word = stored(announced(word, 1, false));
        assert!(word.is_lost());
        let step = touch(word, DIRTY_MAPPING, WRITE);
        assert!(
            matches!(step, Step::Announce(word, Announcement::Retry) if word.generation() == 1)
        );
        let step = dirtied(word, CLEAN_MAPPING, false);
        assert!(
            matches!(step, Step::Announce(word, Announcement::Retry) if word.generation() == 1)
        );
    }

    #[test]
    fn pages_dirtied_without_a_touch_are_late() {
        let step = dirtied(Word::default(), CLEAN_MAPPING, false);
        assert!(matches!(step, Step::Announce(word, Announcement::Late) if word.generation() == 1));
        let step = dirtied(written(Word::default()), CLEAN_MAPPING, false);
        assert!(matches!(step, Step::Announce(word, Announcement::Late) if word.generation() == 2));
    }

    #[test]
    fn a_change_without_pages_lasts_until_a_sync() {
        let word = stored(touch(Word::default(), CLEAN_MAPPING, TRUNCATE));
        let word = stored(announced(word, 1, true));
        assert_eq!(touch(word, CLEAN_MAPPING, TRUNCATE), Step::Nothing);
        assert_eq!(touch(word, CLEAN_MAPPING, WRITE), Step::Nothing);
        let word = stored(synced(word));
        let step = touch(word, CLEAN_MAPPING, TRUNCATE);
        assert!(
            matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 2)
        );
    }

    #[test]
    fn a_change_without_pages_ages() {
        const AGED: Mapping = Mapping {
            dirty: false,
            aged: true,
        };
        let word = stored(touch(Word::default(), CLEAN_MAPPING, TRUNCATE));
        let word = stored(announced(word, 1, true));
        assert!(
            matches!(touch(word, AGED, TRUNCATE), Step::Announce(word, _) if word.generation() == 2)
        );
        let dirty = Mapping {
            dirty: true,
            aged: true,
        };
        assert!(
            matches!(touch(word, dirty, WRITE), Step::Store(word) if word.generation() == 1),
            "dirty pages do not age"
        );
        assert!(!written(Word::default()).age_matters());
    }

    #[test]
    fn a_truncate_among_dirty_pages_waits_for_a_sync_of_its_own() {
        let word = written(Word::default());
        let word = stored(touch(word, DIRTY_MAPPING, TRUNCATE));
        assert!(
            !word.settled(CLEAN_MAPPING),
            "the truncate dropped the pages, nothing is on disk"
        );
        let word = stored(synced(word));
        assert!(word.settled(CLEAN_MAPPING));
        let word = stored(touch(word, DIRTY_MAPPING, TRUNCATE));
        assert!(
            !word.settled(CLEAN_MAPPING),
            "a second truncate came after the sync"
        );
    }

    #[test]
    fn what_is_silent_while_dirty_takes_no_step_while_dirty() {
        let mut silent = 0;
        for bits in 0..1u64 << 10 {
            let word = Word(bits);
            if word.silent_while_dirty() {
                silent += 1;
                assert_eq!(touch(word, DIRTY_MAPPING, WRITE), Step::Nothing, "{word:?}");
                assert_eq!(touch(word, DIRTY_MAPPING, OWN), Step::Nothing, "{word:?}");
            }
        }
        assert!(silent > 0 && written(Word::default()).silent_while_dirty());
    }

    #[test]
    fn own_touches_are_silent_and_hide_nobody() {
        assert_eq!(touch(Word::default(), CLEAN_MAPPING, OWN), Step::Nothing);
        let word = stored(touch(written(Word::default()), CLEAN_MAPPING, OWN));
        let step = touch(word, DIRTY_MAPPING, WRITE);
        assert!(
            matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 2)
        );
    }

    #[test]
    fn an_echo_that_was_delivered_makes_up_for_a_loss() {
        let word = stored(touch(Word::default(), CLEAN_MAPPING, WRITE));
        let lost = stored(announced(word, 1, false));
        assert!(lost.is_lost());
        let word = stored(announced(lost, 1, true));
        let word = stored(dirtied(word, CLEAN_MAPPING, false));
        let step = touch(word, CLEAN_MAPPING, WRITE);
        assert!(
            matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 2),
            "a retry of generation 1 would be dropped as the echo's duplicate"
        );
    }

    #[test]
    fn a_generation_that_begins_on_dirty_pages_ends_when_they_are_clean() {
        let word = stored(touch(Word::default(), DIRTY_MAPPING, WRITE));
        let word = stored(announced(word, 1, true));
        assert_eq!(touch(word, DIRTY_MAPPING, WRITE), Step::Nothing);
        let step = touch(word, CLEAN_MAPPING, WRITE);
        assert!(
            matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 2)
        );
    }

    #[test]
    fn the_mark_changes_the_word_once() {
        let before_the_mark = written(Word::default());
        let after_the_mark = stored(dirtied(before_the_mark, DIRTY_MAPPING, false));
        assert_ne!(
            before_the_mark, after_the_mark,
            "a touch that looked before the mark must fail to swap"
        );
        assert_eq!(dirtied(after_the_mark, DIRTY_MAPPING, false), Step::Nothing);
    }

    #[test]
    fn pages_dirtied_after_a_sync_of_unpaged_changes_are_late() {
        let word = stored(touch(Word::default(), CLEAN_MAPPING, TRUNCATE));
        let word = stored(synced(stored(announced(word, 1, true))));
        let step = dirtied(word, CLEAN_MAPPING, false);
        assert!(matches!(step, Step::Announce(word, Announcement::Late) if word.generation() == 2));
    }

    #[test]
    fn a_sync_between_a_touch_and_its_page_ends_the_generation() {
        let word = stored(touch(Word::default(), CLEAN_MAPPING, WRITE));
        let word = stored(synced(stored(announced(word, 1, true))));
        let step = dirtied(word, CLEAN_MAPPING, false);
        assert!(matches!(step, Step::Announce(word, Announcement::Late) if word.generation() == 2));
    }

    #[test]
    fn a_late_verdict_of_a_former_generation_changes_nothing() {
        let word = written(Word::default());
        assert_eq!(announced(word, 1, false), Step::Nothing);
        let emitting = stored(touch(word, CLEAN_MAPPING, WRITE));
        assert_eq!(announced(emitting, 1, true), Step::Nothing);
    }
}
