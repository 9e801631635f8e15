//! Who modifies: a writer that asks first, and a process that stores through a mapping.
//!
//! Each step is what can happen without anybody else coming in between.

use premod_common::guard::{Phase, Switch};

use crate::{model::State, rules::Rules};

/// Where a modifier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// In user mode, and wants to modify.
    Wants,
    /// Its hook has counted itself, and has not looked at the switch.
    Asks,
    /// Its hook has looked; this is what it saw.
    Saw(PhaseSeen),
    /// Its hook has decided to stop the process, and is half way.
    Stopping,
    /// Its hook has let it pass, and has not counted itself off.
    Passing,
    /// Its hook has done what it does, and has not counted itself off.
    Kept,
    /// It has passed its check and may modify.
    Modifies,
    /// It has modified, and its call has not ended.
    Ends,
    /// It is stopped until somebody continues it.
    Stopped,
    /// It has modified as often as it wanted.
    Done,
}

/// A [`Phase`], in a form that can be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PhaseSeen {
    Open,
    Watching,
    Closed,
}

/// How it modifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// By a system call that asks first.
    Call,
    /// By a store into a mapping, which asks when the page is write-protected.
    Store,
}

/// A modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Actor {
    pub(crate) way: Way,
    pub(crate) step: Step,
    /// How many more times it wants to.
    pub(crate) left: u8,
    /// It is in the map of modifiers in flight.
    pub(crate) in_flight: bool,
    /// It is in the map of held processes.
    pub(crate) held: bool,
    /// A stop is on its way to it, which takes effect when it returns to user mode.
    pub(crate) stop_pending: bool,
    /// Its page can be stored to without a fault.
    pub(crate) writable: bool,
    /// It was under way before the switch was set to watching, so nobody has noted it.
    pub(crate) earlier: bool,
}

impl Actor {
    pub(crate) fn new(way: Way, step: Step, left: u8) -> Self {
        Self {
            way,
            step,
            left,
            in_flight: false,
            held: false,
            stop_pending: false,
            writable: false,
            earlier: step == Step::Modifies,
        }
    }
}

impl Actor {
    /// Its fault has made the page dirty, and has not returned.
    pub(crate) fn has_page_locked(&self) -> bool {
        self.way == Way::Store && self.step == Step::Ends
    }
}

/// What the hooks do at this moment. The deadline is another model's business.
fn seen(switch: Switch) -> PhaseSeen {
    match switch.phase_at(0) {
        Phase::Open => PhaseSeen::Open,
        Phase::Watching => PhaseSeen::Watching,
        Phase::Closed => PhaseSeen::Closed,
    }
}

/// The actor takes its next step; `None` if it has none.
pub(crate) fn step(state: &State, index: usize, rules: Rules) -> Option<State> {
    let mut next = state.clone();
    let closed = seen(state.switch()) == PhaseSeen::Closed;
    let watched = state.programs_hang();
    let actor = &mut next.actors[index];
    match actor.step {
        Step::Stopped | Step::Done => return None,
        Step::Wants if actor.stop_pending => {
            actor.stop_pending = false;
            actor.step = Step::Stopped;
        }
        Step::Wants if actor.left == 0 => actor.step = Step::Done,
        // No hook: the page is writable.
        Step::Wants if actor.way == Way::Store && actor.writable => {
            actor.left -= 1;
            next.modify();
        }
        Step::Wants if !watched => {
            actor.earlier = true;
            actor.step = Step::Modifies;
        }
        Step::Wants => {
            actor.step = Step::Asks;
            next.busy += 1;
        }
        Step::Asks => actor.step = Step::Saw(seen(state.switch())),
        Step::Saw(PhaseSeen::Open) => {
            actor.earlier = true;
            actor.step = Step::Passing;
        }
        Step::Saw(PhaseSeen::Watching) => {
            actor.in_flight = true;
            actor.step = Step::Passing;
        }
        Step::Saw(PhaseSeen::Closed) => {
            if rules.notes_first {
                actor.held = true;
            } else {
                actor.stop_pending = true;
            }
            actor.step = Step::Stopping;
        }
        Step::Stopping => {
            actor.held = true;
            actor.stop_pending = true;
            actor.step = Step::Kept;
        }
        Step::Passing => {
            next.busy -= 1;
            actor.step = Step::Modifies;
        }
        Step::Kept => {
            next.busy -= 1;
            actor.step = Step::Wants;
            if actor.way == Way::Store {
                // The fault goes on: the page becomes dirty and writable, and the process stops before the
                // store.
                actor.writable = true;
                next.dirty = true;
            }
        }
        Step::Modifies => {
            if watched && closed && rules.sees {
                next.touches = (next.touches + 1).min(State::TOUCHES_MAX);
            }
            actor.step = Step::Ends;
            match actor.way {
                Way::Call => {
                    actor.left -= 1;
                    next.modify();
                }
                // The store itself comes after the fault.
                Way::Store => {
                    actor.writable = true;
                    next.dirty = true;
                }
            }
        }
        Step::Ends => {
            actor.in_flight = false;
            actor.earlier = false;
            actor.step = Step::Wants;
        }
    }
    Some(next)
}
