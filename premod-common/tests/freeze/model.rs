//! The transition system that stateright explores: one file with one page, three modifiers, one freeze.

use premod_common::guard::Switch;
use stateright::{Model, Property};

use crate::{
    actors::{self, Actor, Step as Modifier, Way},
    freezer::{self, Step},
    rules::Rules,
};

/// The promises, as sentences.
pub(crate) const UNTOLD: &str = "no modification of a frozen file goes untold";
pub(crate) const LEFT_STOPPED: &str = "nobody is left stopped";
pub(crate) const NEVER_FROZEN: &str = "files can be frozen while somebody waits";

/// A freeze by these rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Freeze {
    pub(crate) rules: Rules,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) actors: Vec<Actor>,
    pub(crate) freezer: Step,
    /// The switch's phase as a number.
    pub(crate) phase: u64,
    /// Hooks that are at work.
    pub(crate) busy: u8,
    /// Modifications that the hooks have counted while the switch was closed.
    pub(crate) touches: u8,
    /// The count that the freezer remembers.
    pub(crate) counted: u8,
    /// The page is dirty.
    pub(crate) dirty: bool,
    /// The page's bytes have changed since the file is frozen.
    pub(crate) modified: bool,
}

impl State {
    /// More are not told apart: there are not so many modifications.
    pub(crate) const TOUCHES_MAX: u8 = 8;

    pub(crate) fn switch(&self) -> Switch {
        Switch {
            phase: self.phase,
            deadline: u64::MAX,
        }
    }

    pub(crate) fn programs_hang(&self) -> bool {
        self.freezer > Step::Attach
    }

    /// The bytes change.
    pub(crate) fn modify(&mut self) {
        self.dirty = true;
        self.modified = true;
    }
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A modifier goes on.
    Modifier(usize),
    /// premod, or its keeper, goes on.
    Freezer,
    /// premod is killed.
    Kill,
}

impl Model for Freeze {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            actors: vec![
                Actor::new(Way::Call, Modifier::Wants, 2),
                Actor::new(Way::Call, Modifier::Modifies, 1),
                Actor::new(Way::Store, Modifier::Wants, 2),
            ],
            freezer: Step::Attach,
            phase: 0,
            busy: 0,
            touches: 0,
            counted: 0,
            dirty: false,
            modified: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend((0..state.actors.len()).map(Action::Modifier));
        actions.extend([Action::Freezer, Action::Kill]);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        match action {
            Action::Modifier(index) => actors::step(state, index, self.rules),
            Action::Freezer => freezer::step(state, self.rules),
            Action::Kill => freezer::die(state),
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(UNTOLD, |_, state: &State| {
                state.freezer != Step::Frozen || !state.modified || state.touches != state.counted
            }),
            Property::always(LEFT_STOPPED, |_, state: &State| {
                state.freezer != Step::Over
                    || state.busy != 0
                    || !state
                        .actors
                        .iter()
                        .any(|actor| actor.stop_pending || actor.step == Modifier::Stopped)
            }),
            Property::sometimes(NEVER_FROZEN, |_, state: &State| {
                state.freezer == Step::Frozen
                    && state
                        .actors
                        .iter()
                        .any(|actor| actor.step == Modifier::Stopped)
            }),
        ]
    }
}
