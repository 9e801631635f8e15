//! Announcing, and what the properties have to know about it.

use crate::{
    model::Generations,
    state::{Decision, Hook, Kind, NONE, State, Swap},
};

impl Generations {
    pub(crate) fn announce_untracked(&self, state: &mut State, index: usize) {
        self.expects_change(state, index);
        self.looks(state, index);
        if self.configuration.actors[index].own {
            state.actors[index].leave_hook();
            return;
        }
        state.actors[index].entry = NONE;
        state.actors[index].superseded = true;
        state.actors[index].hook = Hook::Emit(Decision {
            generation: 0,
            born: 0,
            kind: Kind::Untracked,
        });
    }

    pub(crate) fn emit(&self, state: &mut State, index: usize, decision: Decision) {
        let delivered = self
            .configuration
            .ring
            .is_none_or(|capacity| state.premod.ring < capacity);
        if delivered && self.configuration.ring.is_some() {
            state.premod.ring += 1;
        }
        self.emitted(state, index, decision, delivered);
        if decision.kind == Kind::Untracked {
            state.actors[index].leave_hook();
        } else {
            state.actors[index].hook = Hook::LoadVerdict(decision, delivered);
        }
    }

    /// Two known gaps: the last page becomes clean before the swap that notes an unpaged change in its
    /// generation; and premod's own page becomes dirty before the swap that begins somebody's generation.
    pub(crate) fn look_was_stale(&self, state: &mut State, index: usize, swap: Swap) {
        let saw_dirty = state.actors[index].saw_dirty;
        let dirty = state.kernel.dirty != 0;
        let unpaged = self.site(state, index).is_some_and(|site| site.unpaged);
        let own_pages = self.configuration.actors.iter().any(|role| role.own);
        if saw_dirty && !dirty && unpaged && swap.kind.is_none() || !saw_dirty && dirty && own_pages
        {
            state.memory.stale = true;
            state.memory.excused = true;
        }
    }

    /// From now on a change without pages is on its way to the disk, as far as premod knows.
    pub(crate) fn expects_change(&self, state: &mut State, index: usize) {
        if self.site(state, index).is_some_and(|site| site.unpaged) {
            state.kernel.pending = true;
        }
    }
}
