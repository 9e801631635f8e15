//! The transition system that stateright explores.

use stateright::{Model, Property};

use crate::{
    configuration::Configuration,
    program::{Instruction, Op},
    property::Broken,
    protocol::Protocol,
    state::{Hook, State},
};

/// One protocol in one small world.
#[derive(Clone, Copy)]
pub(crate) struct Generations {
    pub(crate) configuration: &'static Configuration,
    pub(crate) protocol: Protocol,
}

/// How often things may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) writebacks: u8,
    pub(crate) ages: u8,
    pub(crate) evictions: u8,
    pub(crate) skips: u8,
    pub(crate) failing_inserts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The actor takes its next step.
    Step(usize),
    /// The kernel does not run the program that the actor comes to.
    Skip(usize),
    /// There is no memory for the entry that the actor wants to make.
    FailInsert(usize),
    /// The flusher writes a page back.
    WriteBack(u8),
    /// `--period` passes.
    Age,
    /// The inode leaves memory; the next one at this address has the same number and generation, or not.
    Evict { same_identity: bool },
    /// The reader takes a record out of the ring buffer.
    Read,
}

impl Generations {
    pub(crate) fn next_instruction(&self, state: &State, index: usize) -> Option<Instruction> {
        state.instruction(self.configuration, index)
    }

    /// The instruction of an actor that has one.
    pub(crate) fn instruction(&self, state: &State, index: usize) -> Instruction {
        self.next_instruction(state, index).expect("a busy actor")
    }

    pub(crate) fn op(&self, state: &State, index: usize) -> Op {
        self.configuration.actors[index].ops[usize::from(state.actors[index].op)]
    }
}

impl Model for Generations {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.configuration)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.memory.broken.is_some() {
            return;
        }
        for (index, role) in self.configuration.actors.iter().enumerate() {
            let actor = &state.actors[index];
            if usize::from(actor.op) == role.ops.len() || !self.is_ready(state, index) {
                continue;
            }
            actions.push(Action::Step(index));
            if self.is_skippable(state, index) {
                actions.push(Action::Skip(index));
            }
            if actor.hook == Hook::Insert && state.budget.failing_inserts > 0 {
                actions.push(Action::FailInsert(index));
            }
        }
        if state.budget.writebacks > 0 {
            for page in [0, 1] {
                if self.is_writable_back(state, page) {
                    actions.push(Action::WriteBack(page));
                }
            }
        }
        if state.budget.ages > 0 && self.can_age(state) {
            actions.push(Action::Age);
        }
        if state.budget.evictions > 0 && state.all_idle() && state.kernel.dirty == 0 {
            actions.push(Action::Evict {
                same_identity: true,
            });
            actions.push(Action::Evict {
                same_identity: false,
            });
        }
        if state.premod.ring > 0 {
            actions.push(Action::Read);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Step(index) => {
                self.step(&mut state, index);
                self.tidy_up(&mut state, index);
            }
            Action::Skip(index) => {
                self.skip(&mut state, index);
                self.tidy_up(&mut state, index);
            }
            Action::FailInsert(index) => {
                state.budget.failing_inserts -= 1;
                self.insert(&mut state, index, false);
            }
            Action::WriteBack(page) => {
                state.budget.writebacks -= 1;
                self.clear_marks(&mut state, 1 << page);
            }
            Action::Age => {
                state.budget.ages -= 1;
                self.age(&mut state);
            }
            Action::Evict { same_identity } => {
                state.budget.evictions -= 1;
                self.evict(&mut state, same_identity);
            }
            Action::Read => state.premod.ring -= 1,
        }
        self.observe(&mut state);
        if self.configuration.is_timed() {
            state.renumber_times();
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! promises {
            ($($broken:ident),*) => {
                [$(Property::always(Broken::$broken.promise(), |_, state: &State| {
                    state.memory.broken != Some(Broken::$broken)
                })),*]
            };
        }
        let mut properties = Vec::from(promises!(
            Unannounced,
            NotLate,
            LateWithoutReason,
            DeliveredTwice,
            SecondEvent,
            EndedEarly,
            SilentUndelivered,
            LossUncounted,
            Inherited
        ));
        properties.extend(
            self.configuration
                .sights
                .iter()
                .map(|&(name, seen)| Property::sometimes(name, seen)),
        );
        properties
    }
}
