//! The kernel around the hooks: locks, pages, writeback, syncs, eviction.

use crate::{
    memory::Covered,
    model::Generations,
    program::{Instruction, stored_page},
    state::{Actor, Entry, Hook, Kernel, NONE, State},
};

impl Generations {
    /// Whether the actor's next step does not have to wait for a lock.
    pub(crate) fn is_ready(&self, state: &State, index: usize) -> bool {
        let me = index as u8;
        let free = |holder: u8| holder == NONE || holder == me;
        let page_free = |page: u8| free(state.kernel.page_lock[usize::from(page)]);
        if state.actors[index].hook != Hook::Out {
            return true;
        }
        match self.instruction(state, index) {
            Instruction::Touch(site) => !site.exclusive || free(state.kernel.inode_lock),
            Instruction::CopyIn(page) => page_free(page),
            Instruction::Flush(page) => {
                state.kernel.dirty & 1 << page == 0 || self.is_writable_back(state, page)
            }
            Instruction::Net(page) => page_free(page) && free(state.kernel.mapping_lock),
            Instruction::Change { .. } => page_free(0) && page_free(1),
            _ => true,
        }
    }

    /// The hook that the actor is about to enter, if the kernel may skip it.
    pub(crate) fn is_skippable(&self, state: &State, index: usize) -> bool {
        state.budget.skips > 0
            && state.actors[index].hook == Hook::Out
            && match self.instruction(state, index) {
                Instruction::Touch(site) => site.fentry,
                Instruction::Net(page) => state.kernel.dirty & 1 << page == 0,
                Instruction::SecondNet(_) => true,
                _ => false,
            }
    }

    pub(crate) fn step(&self, state: &mut State, index: usize) {
        let me = index as u8;
        if state.actors[index].hook != Hook::Out {
            self.hook_step(state, index);
            return;
        }
        match self.instruction(state, index) {
            Instruction::Touch(site) => {
                let writable = stored_page(self.op(state, index))
                    .is_some_and(|page| state.kernel.writable & 1 << page != 0);
                if writable {
                    // No fault: straight to the store.
                    while !matches!(self.instruction(state, index), Instruction::Store(_)) {
                        state.actors[index].pc += 1;
                    }
                    self.step(state, index);
                    return;
                }
                if site.exclusive {
                    state.kernel.inode_lock = me;
                }
                if site.last && site.exclusive && !self.protocol.touches_again {
                    state.actors[index].leave_hook();
                } else {
                    self.hook_step(state, index);
                }
            }
            Instruction::CopyIn(page) => {
                state.kernel.page_lock[usize::from(page)] = me;
                self.modify(state, index, true);
                state.actors[index].pc += 1;
                if state.kernel.dirty & 1 << page != 0 {
                    self.skip_nets(state, index);
                }
            }
            Instruction::Net(page) => {
                state.kernel.page_lock[usize::from(page)] = me;
                if state.kernel.dirty & 1 << page != 0 {
                    self.skip_nets(state, index);
                    return;
                }
                state.kernel.mapping_lock = me;
                if !self.protocol.net_precedes_mark {
                    state.kernel.dirty |= 1 << page;
                }
                self.hook_step(state, index);
            }
            Instruction::Mark(page) => {
                state.kernel.dirty |= 1 << page;
                state.kernel.mapping_lock = NONE;
                state.actors[index].pc += 1;
            }
            Instruction::SecondNet(_) => self.hook_step(state, index),
            Instruction::MarkWritable(page) => {
                state.kernel.dirty |= 1 << page;
                state.kernel.writable |= 1 << page;
                state.actors[index].pc += 1;
            }
            Instruction::Store(page) => {
                if state.kernel.writable & 1 << page != 0 {
                    self.modify(state, index, true);
                    state.actors[index].pc += 1;
                } else {
                    state.actors[index].pc = 0;
                }
            }
            Instruction::Change { drops_pages } => {
                self.modify(state, index, false);
                if drops_pages {
                    state.kernel.writable = 0;
                    self.clear_marks(state, 0b11);
                }
                state.actors[index].pc += 1;
            }
            Instruction::SyncBegins => {
                state.kernel.syncing |= 1 << me;
                state.actors[index].pc += 1;
            }
            Instruction::SyncHook => self.hook_step(state, index),
            Instruction::SyncTime => {
                state.premod.synced = state.now();
                state.sync_noted();
                state.sync_reaches_all(index);
                state.actors[index].pc += 1;
            }
            Instruction::Flush(page) => {
                self.clear_marks(state, 1 << page);
                state.actors[index].pc += 1;
            }
            Instruction::SyncEnds => state.actors[index].pc += 1,
        }
    }

    /// Gives back what the last step was the last to need, and ends the operation after its last step.
    pub(crate) fn tidy_up(&self, state: &mut State, index: usize) {
        let me = index as u8;
        let next = self.next_instruction(state, index);
        let needs_page = matches!(
            next,
            Some(
                Instruction::Net(_)
                    | Instruction::Mark(_)
                    | Instruction::SecondNet(_)
                    | Instruction::MarkWritable(_)
            )
        );
        if !needs_page {
            for holder in &mut state.kernel.page_lock {
                if *holder == me {
                    *holder = NONE;
                }
            }
        }
        if next.is_none() && !state.actors[index].is_idle() {
            if state.kernel.inode_lock == me {
                state.kernel.inode_lock = NONE;
            }
            state.actors[index].finish();
        }
    }

    fn skip_nets(&self, state: &mut State, index: usize) {
        while matches!(
            self.next_instruction(state, index),
            Some(Instruction::Net(_) | Instruction::Mark(_) | Instruction::SecondNet(_))
        ) {
            state.actors[index].pc += 1;
        }
    }

    pub(crate) fn skip(&self, state: &mut State, index: usize) {
        state.budget.skips -= 1;
        state.actors[index].skipped = true;
        state.memory.excused = true;
        let me = index as u8;
        match self.instruction(state, index) {
            Instruction::Touch(site) if site.exclusive => state.kernel.inode_lock = me,
            Instruction::Net(page) => {
                state.kernel.page_lock[usize::from(page)] = me;
                state.kernel.mapping_lock = me;
            }
            _ => {}
        }
        state.actors[index].pc += 1;
    }

    /// Pages lose their dirty mark and are write-protected.
    pub(crate) fn clear_marks(&self, state: &mut State, pages: u8) {
        let had = state.kernel.dirty;
        state.kernel.dirty &= !pages;
        state.kernel.writable &= !pages;
        if had != 0 && state.kernel.dirty == 0 {
            state.memory.stirred = true;
            state.memory.excused |= state.actors.iter().any(Actor::is_announcing);
            self.overtake(state);
        }
    }

    /// The page can be written back: nobody holds its lock or the mapping's.
    pub(crate) fn is_writable_back(&self, state: &State, page: u8) -> bool {
        state.kernel.dirty & 1 << page != 0
            && state.kernel.page_lock[usize::from(page)] == NONE
            && state.kernel.mapping_lock == NONE
    }

    /// A period passes in which the kernel writes everything back by itself.
    pub(crate) fn age(&self, state: &mut State) {
        state.premod.cutoff = state.now();
        self.clear_marks(state, 0b11);
        state.kernel.pending = false;
        state.sync_noted();
    }

    pub(crate) fn can_age(&self, state: &State) -> bool {
        state.kernel.page_lock == [NONE; 2] && state.kernel.mapping_lock == NONE
    }

    /// The inode leaves memory, and one with this identity takes its place.
    pub(crate) fn evict(&self, state: &mut State, same_identity: bool) {
        if self.protocol.deletes_evicted && !self.configuration.unseen_evictions {
            if state.premod.map != NONE {
                state.premod.elements[usize::from(state.premod.map)] = Entry::default();
            }
            state.premod.map = NONE;
        }
        state.kernel = Kernel {
            life: state.kernel.life + 1,
            identity: state.kernel.identity + u8::from(!same_identity),
            dirty: 0,
            writable: 0,
            pending: false,
            ..state.kernel
        };
        state.memory.covered = Covered::Nothing;
        state.memory.modified = false;
        state.memory.waits = false;
        state.memory.stirred = true;
    }
}
