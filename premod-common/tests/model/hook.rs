//! touch.rs, one access to shared memory per step.

use premod_common::generation::{Announcement, Mapping, Step, Touch, Word};

use crate::{
    model::Generations,
    program::{Instruction, Site},
    property::Broken,
    state::{Decision, Entry, Hook, Kind, NONE, State, Swap},
};

impl Generations {
    /// One step of the hook that the actor is in.
    pub(crate) fn hook_step(&self, state: &mut State, index: usize) {
        match state.actors[index].hook {
            Hook::Out => self.enter(state, index),
            Hook::Lookup => self.lookup(state, index),
            Hook::Remove => {
                state.premod.map = NONE;
                state.actors[index].hook = Hook::Insert;
            }
            Hook::Insert => self.insert(state, index, self.configuration.map_has_room),
            Hook::LookupAgain => {
                state.actors[index].entry = state.premod.map;
                if state.premod.map == NONE {
                    self.announce_untracked(state, index);
                } else {
                    state.actors[index].hook = Hook::LoadWord;
                }
            }
            Hook::LoadWord => self.load_word(state, index),
            Hook::LoadMark(word) => {
                let dirty = state.kernel.dirty != 0;
                let marking = ![NONE, index as u8].contains(&state.kernel.mapping_lock);
                state.actors[index].misled = marking && !dirty;
                state.actors[index].saw_dirty = dirty;
                if dirty || !word.age_matters() || !self.configuration.is_timed() {
                    let mapping = Mapping { dirty, aged: false };
                    self.follow(state, index, word, mapping);
                } else {
                    state.actors[index].hook = Hook::LoadAnnounced(word);
                }
            }
            Hook::LoadAnnounced(word) => {
                let announced = entry(state, index).announced;
                state.actors[index].hook = Hook::LoadSynced(word, announced);
            }
            Hook::LoadSynced(word, announced) => {
                let aged = announced <= state.premod.cutoff || state.premod.synced > announced;
                let mapping = Mapping { dirty: false, aged };
                self.follow(state, index, word, mapping);
            }
            Hook::Swap(swap) => self.swap(state, index, swap),
            Hook::ReadClock(decision) => {
                state.actors[index].hook = Hook::StoreAnnounced(decision, state.now());
            }
            Hook::StoreAnnounced(decision, now) => {
                entry(state, index).announced = now;
                if now <= state.premod.synced.max(state.premod.cutoff) {
                    // Older than a sync: ends the generation although it began after that.
                    state.sync_noted();
                }
                state.actors[index].hook = Hook::Emit(decision);
            }
            Hook::Emit(decision) => self.emit(state, index, decision),
            Hook::LoadVerdict(decision, delivered) => {
                let word = entry(state, index).word;
                let generation = u64::from(decision.generation);
                match (self.protocol.announced)(word, generation, delivered) {
                    Step::Store(new) => {
                        state.actors[index].hook =
                            Hook::SwapVerdict(decision, delivered, word, new);
                    }
                    _ => state.actors[index].leave_hook(),
                }
            }
            Hook::SwapVerdict(decision, delivered, old, new) => {
                if entry(state, index).word == old {
                    entry(state, index).word = new;
                    if !delivered && decision.kind != Kind::Retry {
                        state.counted(decision);
                    }
                    state.actors[index].leave_hook();
                } else if self.again(state, index) {
                    state.actors[index].hook = Hook::LoadVerdict(decision, delivered);
                } else {
                    state.memory.excused = true;
                    state.actors[index].leave_hook();
                }
            }
        }
    }

    pub(crate) fn load_word(&self, state: &mut State, index: usize) {
        let entry = *entry(state, index);
        if self.instruction(state, index) == Instruction::SyncHook {
            match (self.protocol.synced)(entry.word) {
                Step::Store(new) => state.actors[index].hook = plain_swap(entry.word, new),
                _ => {
                    state.sync_noted();
                    if is_announced(entry.word) {
                        state.sync_reaches_all(index);
                    }
                    state.actors[index].leave_hook();
                }
            }
            return;
        }
        if entry.life != state.kernel.life {
            if self.configuration.unseen_evictions {
                state.memory.excused = true;
            } else {
                state.break_(Broken::Inherited);
            }
        }
        self.looks(state, index);
        state.actors[index].hook = Hook::LoadMark(entry.word);
    }

    /// The last hook before the modification looks: whatever happens to the inode from now on overtakes it.
    pub(crate) fn looks(&self, state: &mut State, index: usize) {
        if self.site(state, index).is_some_and(|site| site.last) {
            state.actors[index].looked = true;
            state.actors[index].overtaken = false;
            state.actors[index].synced = false;
            state.actors[index].superseded = false;
        }
    }

    /// What `decide` does with the word and the mapping.
    fn follow(&self, state: &mut State, index: usize, word: Word, mapping: Mapping) {
        let is_own = self.configuration.actors[index].own;
        let mut next = self.ask(state, index, word, mapping);
        if matches!(next, Step::Announce(..)) && is_own {
            state.actors[index].own = true;
            next = self.ask(state, index, word, mapping);
        }
        let (new, kind) = match next {
            Step::Nothing => {
                if !same_generation(entry(state, index).word, word) {
                    state.memory.stale = true;
                    state.memory.excused = true;
                }
                self.expects_change(state, index);
                self.stays_silent(state, index, word);
                state.actors[index].leave_hook();
                return;
            }
            Step::Store(new) => (new, None),
            Step::Announce(new, announcement) => (new, Some(kind_of(announcement))),
        };
        let now = if self.protocol.clock_precedes_swap && self.configuration.is_timed() {
            state.now()
        } else {
            0
        };
        state.actors[index].hook = Hook::Swap(Swap {
            old: word,
            new,
            kind,
            aged: mapping.aged,
            now,
        });
    }

    fn ask(&self, state: &State, index: usize, word: Word, mapping: Mapping) -> Step {
        let own = state.actors[index].own;
        match self.site(state, index) {
            Some(Site { unpaged, .. }) => {
                (self.protocol.touch)(word, mapping, Touch { unpaged, own })
            }
            None => (self.protocol.dirtied)(word, mapping, own),
        }
    }

    fn swap(&self, state: &mut State, index: usize, swap: Swap) {
        let found = entry(state, index);
        if found.word != swap.old {
            if self.again(state, index) {
                state.actors[index].hook = Hook::LoadWord;
            } else if self.instruction(state, index) == Instruction::SyncHook {
                state.memory.excused = true;
                state.actors[index].leave_hook();
            } else {
                state.memory.excused = true;
                self.announce_untracked(state, index);
            }
            return;
        }
        found.word = swap.new;
        let born = found.born;
        if self.instruction(state, index) == Instruction::SyncHook {
            state.sync_noted();
            state.sync_reaches_all(index);
        }
        if self.configuration.actors[index].own || state.actors[index].misled {
            state.memory.stirred = true;
        }
        if self.configuration.actors[index].own {
            for actor in &mut state.actors {
                actor.superseded = true;
            }
        }
        self.look_was_stale(state, index, swap);
        self.expects_change(state, index);
        let Some(kind) = swap.kind else {
            self.stays_silent(state, index, swap.old);
            state.actors[index].leave_hook();
            return;
        };
        state.generation_begins(kind, swap);
        if kind == Kind::First && is_paged(swap.new) && state.kernel.dirty == 0 {
            // The pages that the look saw dirty are clean already, which ends the generation at once.
            state.memory.stirred = true;
        }
        state.actors[index].superseded |= matches!(kind, Kind::Echo | Kind::Retry);
        let decision = Decision {
            generation: swap.new.generation() as u8,
            born,
            kind,
        };
        state.actors[index].attempt = 0;
        state.actors[index].hook = if !self.configuration.is_timed() {
            Hook::Emit(decision)
        } else if self.protocol.clock_precedes_swap {
            Hook::StoreAnnounced(decision, swap.now)
        } else {
            Hook::ReadClock(decision)
        };
    }

    /// Counts an attempt; false if it was the last.
    fn again(&self, state: &mut State, index: usize) -> bool {
        state.actors[index].attempt += 1;
        state.actors[index].attempt < self.protocol.attempts
    }

    /// The touch that the actor is in; none in the net and in a sync.
    pub(crate) fn site(&self, state: &State, index: usize) -> Option<Site> {
        match self.instruction(state, index) {
            Instruction::Touch(site) => Some(site),
            _ => None,
        }
    }
}

fn entry(state: &mut State, index: usize) -> &mut Entry {
    &mut state.premod.elements[usize::from(state.actors[index].entry)]
}

fn plain_swap(old: Word, new: Word) -> Hook {
    Hook::Swap(Swap {
        old,
        new,
        kind: None,
        aged: false,
        now: 0,
    })
}

const fn kind_of(announcement: Announcement) -> Kind {
    match announcement {
        Announcement::First => Kind::First,
        Announcement::Echo => Kind::Echo,
        Announcement::Retry => Kind::Retry,
        Announcement::Late => Kind::Late,
    }
}

/// Bits of the word that the bookkeeping has to know.
pub(crate) const PAGED: u64 = 1 << 2;
const PHASE: u64 = 0b11;

const fn is_paged(word: Word) -> bool {
    word.0 & PAGED != 0
}

/// Clean or announced; a sync is not noted while an announcement is on its way or has to be repeated.
const fn is_announced(word: Word) -> bool {
    matches!(word.0 & PHASE, 0 | 2)
}

const fn same_generation(one: Word, other: Word) -> bool {
    one.generation() == other.generation() && (one.0 & PHASE == 0) == (other.0 & PHASE == 0)
}
