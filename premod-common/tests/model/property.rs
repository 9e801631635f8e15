//! What is promised, and how a breach is noticed.
//!
//! The inode *is clean* when no page has the dirty mark, no page is being modified, and no change without
//! pages that was announced waits for a sync. It *becomes clean* when it is so after somebody modified it;
//! that ends a *period*. An event covers what comes after it in its period. A modification is *overtaken* if
//! the inode became clean after the last hook before it had loaded the word for the last time.
//!
//! [`crate::memory::Memory::excused`] lifts the promises about events for the rest of a run: see there.

use crate::{
    memory::{Covered, Seen},
    model::Generations,
    state::{BIRTHS, Decision, GENERATIONS, Kind, NONE, State, Swap},
};

/// A promise that did not hold. A state that breaks one has no successors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Broken {
    Unannounced,
    NotLate,
    LateWithoutReason,
    DeliveredTwice,
    SecondEvent,
    EndedEarly,
    SilentUndelivered,
    LossUncounted,
    Inherited,
}

impl Broken {
    /// The promises, as sentences.
    pub(crate) const fn promise(self) -> &'static str {
        match self {
            Self::Unannounced => {
                "a modification comes after an event of its own period, or after a counted loss, or it was overtaken, or a hook was skipped"
            }
            Self::NotLate => {
                "an overtaken modification of a page, before which nothing was said, is followed by an event or a counted loss"
            }
            Self::LateWithoutReason => {
                "an event is late only if its modification was overtaken, its last hook joined an older generation, premod itself had a hand in it, or a hook was skipped"
            }
            Self::DeliveredTwice => "the reader sees at most one event of a generation",
            Self::SecondEvent => {
                "a generation begins only if, since the one before began, writeback, a sync, age, premod itself or an eviction had a hand in it, or a look at the mapping fell between the net and the mark"
            }
            Self::EndedEarly => {
                "a change without pages that was announced after a sync was noted keeps its period open until the next"
            }
            Self::SilentUndelivered => {
                "a touch is silent only if an event of the current generation was delivered: a lost one is announced again"
            }
            Self::LossUncounted => "a generation whose announcements all failed is counted as lost",
            Self::Inherited => "no inode finds the entry of another one that had its memory",
        }
    }

    pub(crate) const ALL: [Self; 9] = [
        Self::Unannounced,
        Self::NotLate,
        Self::LateWithoutReason,
        Self::DeliveredTwice,
        Self::SecondEvent,
        Self::EndedEarly,
        Self::SilentUndelivered,
        Self::LossUncounted,
        Self::Inherited,
    ];
}

impl State {
    pub(crate) fn break_(&mut self, promise: Broken) {
        self.memory.broken.get_or_insert(promise);
    }

    /// A sync or an age has told premod that unpaged changes before it are over.
    pub(crate) fn sync_noted(&mut self) {
        self.memory.waits = false;
        self.memory.stirred = true;
        for actor in &mut self.actors {
            actor.synced = true;
        }
    }

    /// Once a sync was noted, what was changed without pages before the sync began counts as being on disk:
    /// an event that comes during the sync is newer than what the sync makes clean.
    pub(crate) fn sync_reaches_all(&mut self, actor: usize) {
        if self.kernel.syncing & 1 << actor != 0 {
            self.kernel.pending = false;
            self.kernel.syncing &= !(1 << actor);
        }
    }

    /// The word moved on to the next generation.
    pub(crate) fn generation_begins(&mut self, kind: Kind, swap: Swap) {
        if !matches!(kind, Kind::First | Kind::Late) {
            return;
        }
        if self.memory.waits && !swap.aged && !self.memory.excused {
            self.break_(Broken::EndedEarly);
        }
        if swap.old.generation() > 0 && !self.memory.stirred && !self.memory.excused {
            self.break_(Broken::SecondEvent);
        }
        self.memory.stirred = false;
        for actor in &mut self.actors {
            // Whatever it is about to change falls into a generation that its hooks did not see.
            actor.superseded = true;
        }
    }

    pub(crate) fn counted(&mut self, decision: Decision) {
        let bit = 1 << decision.generation;
        let seen = &mut self.memory.seen[usize::from(decision.born)];
        if seen.counted & bit != 0 {
            self.memory.recounted = true;
        }
        seen.counted |= bit;
    }
}

impl Generations {
    /// The data changes now.
    pub(crate) fn modify(&self, state: &mut State, index: usize, paged: bool) {
        if !paged {
            state.kernel.pending = true;
            state.kernel.syncing = 0;
        }
        if self.configuration.actors[index].own {
            return;
        }
        let own_pages = self.configuration.actors.iter().any(|role| role.own);
        let actor = state.actors[index];
        let memory = &mut state.memory;
        if memory.covered == Covered::Nothing && !actor.skipped && !memory.excused {
            if !actor.overtaken {
                state.break_(Broken::Unannounced);
                return;
            }
            if paged && own_pages {
                // The page may be dirty already, by premod: no net.
                memory.stale = true;
                memory.excused = true;
            } else if paged {
                memory.owed = true;
            } else {
                memory.slipped = true;
            }
        }
        memory.modified = true;
        if !paged {
            memory.waits = !actor.synced && !actor.superseded;
            // The generation that it falls into may not know of it.
            memory.excused |= actor.overtaken || actor.synced;
        }
    }

    /// The inode has become clean behind whoever has passed its last hook's last look.
    pub(crate) fn overtake(&self, state: &mut State) {
        for actor in &mut state.actors {
            actor.overtaken = actor.looked;
        }
    }

    /// After every step: whether a period has ended.
    pub(crate) fn observe(&self, state: &mut State) {
        let kernel = &state.kernel;
        let clean = kernel.dirty == 0 && kernel.page_lock == [NONE; 2] && !kernel.pending;
        if clean && state.memory.modified {
            state.memory.modified = false;
            state.memory.covered = Covered::Nothing;
            self.overtake(state);
        }
        if state.all_idle() {
            if state.memory.owed && !state.memory.excused {
                state.break_(Broken::NotLate);
            }
            let uncounted = state
                .memory
                .seen
                .iter()
                .any(|seen| seen.failed & !seen.accepted & !seen.counted != 0);
            if uncounted && !state.memory.excused {
                state.break_(Broken::LossUncounted);
            }
        }
    }

    /// A touch goes on without an event of its own.
    pub(crate) fn stays_silent(
        &self,
        state: &mut State,
        index: usize,
        word: premod_common::generation::Word,
    ) {
        if self.site(state, index).is_none() || self.configuration.actors[index].own {
            return;
        }
        let entry = state.premod.elements[usize::from(state.actors[index].entry)];
        let accepted = state.memory.seen[usize::from(entry.born)].accepted;
        if accepted & 1 << word.generation() == 0 {
            state.break_(Broken::SilentUndelivered);
        }
    }

    /// An announcement was made, and has found room in the buffer or not.
    pub(crate) fn emitted(
        &self,
        state: &mut State,
        index: usize,
        decision: Decision,
        delivered: bool,
    ) {
        let Decision {
            generation,
            born,
            kind,
        } = decision;
        let generation = usize::from(generation);
        assert!(
            usize::from(born) < BIRTHS && generation < GENERATIONS,
            "the configuration is too large"
        );
        let bit = 1 << generation;
        let excused = state.memory.excused;
        let seen = &mut state.memory.seen[usize::from(born)];
        if !delivered {
            state.memory.owed = false;
            if state.memory.covered == Covered::Nothing {
                state.memory.covered = Covered::Loss;
            }
            if kind != Kind::Untracked {
                seen.failed |= bit;
            }
            return;
        }
        if kind == Kind::Untracked {
            state.memory.misdated |= state.memory.owed;
            state.memory.owed = false;
            state.memory.covered = Covered::Event;
            return;
        }
        let known = Seen {
            accepted: seen.accepted & bit != 0,
            echoed: seen.echoed & bit != 0,
        };
        if (self.protocol.is_duplicate)(known, kind) {
            return;
        }
        if known.accepted {
            state.break_(Broken::DeliveredTwice);
            return;
        }
        seen.accepted |= bit;
        if kind == Kind::Echo {
            seen.echoed |= bit;
        }
        let actor = state.actors[index];
        if kind == Kind::Late
            && !actor.overtaken
            && !actor.synced
            && !actor.superseded
            && !actor.skipped
            && !excused
        {
            state.break_(Broken::LateWithoutReason);
            return;
        }
        let memory = &mut state.memory;
        memory.misdated |= memory.owed && kind != Kind::Late && kind != Kind::Retry;
        memory.owed = false;
        memory.covered = Covered::Event;
    }
}
