//! Who modifies: a writer that asks first, and threads that store through a mapping.
//!
//! Each step is what can happen without anybody else coming in between.

use premod_common::guard::Phase;

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
    /// Its hook keeps it for a moment, until the keeper has seized it.
    Waits,
    /// Its hook has decided to stop the process by a signal, and is half way.
    Stopping,
    /// Its hook has let it pass, and has not counted itself off.
    Passing,
    /// Its hook has done what it does, and has not counted itself off.
    Kept,
    /// It has passed its check and may modify.
    Modifies,
    /// It has modified, and its call has not ended.
    Ends,
    /// It is stopped by a signal until somebody continues it.
    Stopped,
    /// It is seized, and stands still until it is let go.
    Trapped,
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
    /// By a store into a mapping, which asks when the page is write-protected. All who store have the same memory.
    Store,
}

/// A modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Actor {
    pub(crate) way: Way,
    pub(crate) step: Step,
    /// How many more times it wants to.
    pub(crate) left: u8,
    /// It has the file mapped, or needs no mapping.
    pub(crate) maps: bool,
    /// It is in the map of modifiers in flight.
    pub(crate) in_flight: bool,
    /// It is on the list of those that were stopped by a signal.
    pub(crate) held: bool,
    /// A stop is on its way to it from its own hook: it takes effect when it returns to user mode.
    pub(crate) stop_pending: bool,
    /// premod has sent it a stop, which takes effect sooner or later.
    pub(crate) signalled: bool,
    /// How often its hook has kept it waiting.
    pub(crate) rounds: u8,
    /// The keeper is told to seize it.
    pub(crate) ordered: bool,
    /// It is seized: it stands still sooner or later.
    pub(crate) seized: bool,
    /// premod has asked for it, because it maps the file.
    pub(crate) listed: bool,
    /// It was under way before the switch was set to watching, so nobody has noted it.
    pub(crate) earlier: bool,
}

impl Actor {
    pub(crate) fn new(way: Way, step: Step, left: u8) -> Self {
        Self {
            way,
            step,
            left,
            maps: true,
            in_flight: false,
            held: false,
            stop_pending: false,
            signalled: false,
            rounds: 0,
            ordered: false,
            seized: false,
            listed: false,
            earlier: step == Step::Modifies,
        }
    }

    /// One that has yet to map the file.
    pub(crate) fn without_a_mapping(self) -> Self {
        Self {
            maps: false,
            ..self
        }
    }

    /// Its fault has made the page dirty, and has not returned.
    pub(crate) fn has_page_locked(&self) -> bool {
        self.way == Way::Store && self.maps && self.step == Step::Ends
    }

    /// It does nothing any more until it is let go, whatever others send it.
    pub(crate) fn is_trapped_or_done(&self) -> bool {
        matches!(self.step, Step::Trapped | Step::Done)
    }

    /// It does nothing any more until somebody continues it.
    pub(crate) fn stands_still(&self) -> bool {
        self.step == Step::Stopped || self.is_trapped_or_done()
    }

    /// Its stop was taken back, or has ended.
    pub(crate) fn go_on(&mut self) {
        self.stop_pending = false;
        self.signalled = false;
        if self.step == Step::Stopped {
            self.step = Step::Wants;
        }
    }
}

/// A stop or trap that somebody else has sent takes effect: in user mode, whatever it was about to do.
pub(crate) fn take_effect(state: &State, index: usize) -> Option<State> {
    let mut next = state.clone();
    let actor = &mut next.actors[index];
    actor.step = match actor.step {
        Step::Wants | Step::Stopped if actor.seized => Step::Trapped,
        Step::Wants if actor.signalled => Step::Stopped,
        _ => return None,
    };
    Some(next)
}

/// The actor takes its next step; `None` if it has none.
pub(crate) fn step(state: &State, index: usize, rules: Rules) -> Option<State> {
    let mut next = state.clone();
    let seen = state.seen_by_hooks();
    let closed = seen == PhaseSeen::Closed;
    let watched = state.programs_hang();
    let has_company = state
        .actors
        .iter()
        .enumerate()
        .any(|(other, actor)| other != index && actor.way == Way::Store);
    let actor = &mut next.actors[index];
    let stores = actor.way == Way::Store && actor.maps;
    match actor.step {
        Step::Stopped | Step::Trapped | Step::Done => return None,
        Step::Wants if actor.stop_pending => {
            actor.stop_pending = false;
            actor.step = Step::Stopped;
        }
        Step::Wants if actor.left == 0 => actor.step = Step::Done,
        // No hook: the page is writable.
        Step::Wants if stores && state.writable => {
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
        Step::Asks => actor.step = Step::Saw(seen),
        Step::Saw(PhaseSeen::Open) => {
            actor.earlier = true;
            actor.step = Step::Passing;
        }
        Step::Saw(PhaseSeen::Watching) => {
            actor.in_flight = true;
            actor.step = Step::Passing;
        }
        // A system call can be repeated as often as one likes.
        Step::Saw(PhaseSeen::Closed) if !stores && actor.rounds < State::ROUNDS => {
            actor.ordered = true;
            actor.rounds += 1;
            actor.step = Step::Waits;
        }
        Step::Waits => {
            next.busy -= 1;
            actor.step = Step::Wants;
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
            if stores {
                // The fault goes on: the page becomes dirty and writable, and the process stops before the
                // store. If its stop was taken back meanwhile, the store comes.
                let comes = !actor.stop_pending && rules.looks_at_its_stop;
                if comes || has_company && rules.tells_of_company {
                    next.touches = (next.touches + 1).min(State::TOUCHES_MAX);
                }
                next.writable = true;
                next.dirty = true;
            }
        }
        // A mapping changes nothing.
        Step::Modifies if actor.way == Way::Store && !actor.maps => {
            actor.maps = true;
            actor.step = Step::Ends;
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
                    next.writable = true;
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

/// Somebody else sends SIGCONT: seized processes take no notice.
pub(crate) fn continued(state: &State, index: usize, rules: Rules) -> Option<State> {
    let mut next = state.clone();
    let actor = &mut next.actors[index];
    if state.continued || !(actor.held && (actor.step == Step::Stopped || actor.stop_pending)) {
        return None;
    }
    let can_store = state.writable || actor.step == Step::Kept;
    if actor.way == Way::Store
        && can_store
        && state.seen_by_hooks() == PhaseSeen::Closed
        && rules.sees_sigcont
    {
        next.touches = (next.touches + 1).min(State::TOUCHES_MAX);
    }
    next.continued = true;
    next.actors[index].go_on();
    Some(next)
}

impl From<Phase> for PhaseSeen {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Open => Self::Open,
            Phase::Watching => Self::Watching,
            Phase::Closed => Self::Closed,
        }
    }
}
