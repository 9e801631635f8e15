//! The transition system that stateright explores: one file with one page, those who modify it, one freeze.

use premod_common::guard::Switch;
use stateright::{Model, Property};

use crate::{
    actors::{self, Actor, PhaseSeen, Step as Modifier, Way},
    freezer::{self, Step},
    keeper::{self, Keeper},
    rules::Rules,
};

/// The promises, as sentences.
pub(crate) const UNTOLD: &str = "no modification of a frozen file goes untold";
pub(crate) const MODIFIED: &str = "nothing modifies a frozen file while the keeper lives";
pub(crate) const LEFT_STOPPED: &str = "nobody is left stopped";
pub(crate) const NEVER_FROZEN: &str = "files can be frozen while somebody waits";

/// Who there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// A writer, one that is under way when premod comes, and one process that stores.
    Alone,
    /// Two threads that store, one of which has yet to map the file.
    Together,
}

/// A freeze by these rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Freeze {
    pub(crate) rules: Rules,
    pub(crate) world: World,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) actors: Vec<Actor>,
    pub(crate) freezer: Step,
    pub(crate) premod_is_dead: bool,
    pub(crate) keeper: Keeper,
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
    /// The page can be stored to without a fault.
    pub(crate) writable: bool,
    /// The page's bytes have changed since the file is frozen.
    pub(crate) modified: bool,
    /// Somebody has sent the one SIGCONT that there is.
    pub(crate) continued: bool,
}

impl State {
    /// More are not told apart: there are not so many modifications.
    pub(crate) const TOUCHES_MAX: u8 = 8;
    /// How often a hook keeps a thread waiting, before it is stopped by a signal.
    pub(crate) const ROUNDS: u8 = 1;

    /// What hooks do at this moment. The deadline is another model's business.
    pub(crate) fn seen_by_hooks(&self) -> PhaseSeen {
        if self.premod_is_dead {
            return PhaseSeen::Open;
        }
        let switch = Switch {
            phase: self.phase,
            deadline: u64::MAX,
        };
        switch.phase_at(0).into()
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
    /// A stop or a trap takes effect.
    StandStill(usize),
    /// Somebody else continues a modifier.
    Continue(usize),
    /// premod, or who does it in its place, goes on.
    Freezer,
    /// The keeper seizes a modifier.
    Seize(usize),
    KillPremod,
    KillKeeper,
}

impl Model for Freeze {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let actors = match self.world {
            World::Alone => vec![
                Actor::new(Way::Call, Modifier::Wants, 2),
                Actor::new(Way::Call, Modifier::Modifies, 1),
                Actor::new(Way::Store, Modifier::Wants, 2),
            ],
            World::Together => vec![
                Actor::new(Way::Store, Modifier::Wants, 1),
                Actor::new(Way::Store, Modifier::Wants, 1).without_a_mapping(),
            ],
        };
        vec![State {
            actors,
            freezer: Step::Attach,
            premod_is_dead: false,
            keeper: Keeper::Works,
            phase: 0,
            busy: 0,
            touches: 0,
            counted: 0,
            dirty: false,
            writable: false,
            modified: false,
            continued: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for index in 0..state.actors.len() {
            actions.extend([
                Action::Modifier(index),
                Action::StandStill(index),
                Action::Continue(index),
                Action::Seize(index),
            ]);
        }
        actions.extend([Action::Freezer, Action::KillPremod, Action::KillKeeper]);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        match action {
            Action::Modifier(index) => actors::step(state, index, self.rules),
            Action::StandStill(index) => actors::take_effect(state, index),
            Action::Continue(index) => actors::continued(state, index, self.rules),
            Action::Freezer => freezer::step(state, self.rules),
            Action::Seize(index) => keeper::seize(state, index),
            Action::KillPremod => freezer::die(state),
            Action::KillKeeper => keeper::die(state, self.rules),
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(UNTOLD, |_, state: &State| {
                state.freezer != Step::Frozen || !state.modified || state.touches != state.counted
            }),
            Property::always(MODIFIED, |_, state: &State| {
                state.freezer != Step::Frozen || !state.modified || state.keeper == Keeper::Dead
            }),
            Property::always(LEFT_STOPPED, |_, state: &State| {
                let is_left = |actor: &Actor| {
                    actor.stop_pending
                        || actor.signalled
                        || actor.seized
                        || matches!(actor.step, Modifier::Stopped | Modifier::Trapped)
                };
                state.freezer != Step::Over || state.busy != 0 || !state.actors.iter().any(is_left)
            }),
            Property::sometimes(NEVER_FROZEN, |_, state: &State| {
                state.freezer == Step::Frozen
                    && state
                        .actors
                        .iter()
                        .any(|actor| actor.step == Modifier::Trapped)
            }),
        ]
    }
}
