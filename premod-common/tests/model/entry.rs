//! `find` of touch.rs: the inode's entry, made if there is none.

use crate::{
    model::Generations,
    program::Instruction,
    state::{ELEMENTS, Entry, Hook, NONE, State},
};

impl Generations {
    pub(crate) fn enter(&self, state: &mut State, index: usize) {
        if self.instruction(state, index) == Instruction::SyncHook {
            // `synced` asks for no identity and makes no entry.
            state.actors[index].entry = state.premod.map;
            if state.premod.map == NONE {
                state.sync_reaches_all(index);
                state.actors[index].leave_hook();
            } else {
                state.actors[index].hook = Hook::LoadWord;
            }
            return;
        }
        state.actors[index].hook = Hook::Lookup;
        // With no entries taken away under a hook, finding one and looking at it are one step.
        if !self.configuration.unseen_evictions && state.premod.map != NONE {
            self.lookup(state, index);
            if state.actors[index].hook == Hook::LoadWord {
                self.load_word(state, index);
            }
        }
    }

    pub(crate) fn lookup(&self, state: &mut State, index: usize) {
        let found = state.premod.map;
        let actor = &mut state.actors[index];
        if found == NONE {
            actor.hook = Hook::Insert;
            return;
        }
        let identity = state.premod.elements[usize::from(found)].identity;
        if self.protocol.compares_identity && identity != state.kernel.identity {
            actor.hook = Hook::Remove;
        } else {
            actor.entry = found;
            actor.hook = Hook::LoadWord;
        }
    }

    /// `BPF_NOEXIST`: whoever comes second finds the first one's entry.
    pub(crate) fn insert(&self, state: &mut State, index: usize, has_room: bool) {
        state.actors[index].hook = Hook::LookupAgain;
        if state.premod.map != NONE || !has_room {
            return;
        }
        let free = (0..ELEMENTS as u8).find(|free| state.actors.iter().all(|a| a.entry != *free));
        state.premod.map = free.expect("each actor holds one entry at most");
        state.premod.births += 1;
        state.premod.elements[usize::from(state.premod.map)] = Entry {
            identity: state.kernel.identity,
            born: state.premod.births - 1,
            life: state.kernel.life,
            ..Entry::default()
        };
    }
}
