//! premod, and the keeper.

use premod_common::guard::Phase;

use crate::{
    actors::{Actor, Step as Modifier},
    model::State,
    rules::Rules,
};

/// Where the freeze is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Step {
    Attach,
    Watch,
    WaitForWatchingHooks,
    WaitForEarlier,
    Close,
    WaitForClosedHooks,
    WaitForFlights,
    Count,
    Flush,
    Verify,
    /// CMD reads.
    Frozen,
    Open,
    ContinueFirst,
    WaitForOpenHooks,
    ContinueAgain,
    Over,
}

/// premod, or its keeper, takes its next step; `None` if it waits or is done.
pub(crate) fn step(state: &State, rules: Rules) -> Option<State> {
    let mut next = state.clone();
    let obeyed = !rules.waits_for_hooks || state.busy == 0;
    next.freezer = match state.freezer {
        Step::Attach => Step::Watch,
        Step::Watch => {
            next.phase = Phase::Watching as u64;
            Step::WaitForWatchingHooks
        }
        Step::WaitForWatchingHooks if obeyed => Step::WaitForEarlier,
        Step::WaitForEarlier
            if !rules.waits_for_earlier || !state.actors.iter().any(|actor| actor.earlier) =>
        {
            Step::Close
        }
        Step::Close => {
            next.phase = Phase::Closed as u64;
            Step::WaitForClosedHooks
        }
        Step::WaitForClosedHooks if obeyed => Step::WaitForFlights,
        Step::WaitForFlights
            if !rules.waits_for_flights || !state.actors.iter().any(|actor| actor.in_flight) =>
        {
            Step::Count
        }
        Step::Count => {
            next.counted = state.touches;
            Step::Flush
        }
        // A fault keeps its page locked until it can be stored to.
        Step::Flush if rules.flushes && state.actors.iter().any(Actor::has_page_locked) => {
            return None;
        }
        Step::Flush => {
            if rules.flushes {
                next.dirty = false;
                for actor in &mut next.actors {
                    actor.writable = false;
                }
            }
            Step::Verify
        }
        Step::Verify
            if rules.verifies
                && (rules.flushes && state.dirty || state.touches != state.counted) =>
        {
            Step::Count
        }
        Step::Verify => {
            next.counted = state.touches;
            next.modified = false;
            Step::Frozen
        }
        Step::Frozen => Step::Open,
        Step::Open => {
            next.phase = Phase::Open as u64;
            next.modified = false;
            Step::ContinueFirst
        }
        Step::ContinueFirst => {
            continue_all(&mut next);
            Step::WaitForOpenHooks
        }
        Step::WaitForOpenHooks if obeyed && rules.continues_twice => Step::ContinueAgain,
        Step::WaitForOpenHooks if obeyed => Step::Over,
        Step::ContinueAgain => {
            continue_all(&mut next);
            Step::Over
        }
        _ => return None,
    };
    Some(next)
}

/// premod is killed: the keeper does what is left. Its programs still run for a while.
pub(crate) fn die(state: &State) -> Option<State> {
    (Step::Watch < state.freezer && state.freezer < Step::Open).then(|| State {
        freezer: Step::Open,
        modified: false,
        ..state.clone()
    })
}

/// SIGCONT to everybody on the list: a stop that is on its way is cancelled, too.
fn continue_all(state: &mut State) {
    for actor in &mut state.actors {
        if actor.held {
            actor.held = false;
            actor.stop_pending = false;
            if actor.step == Modifier::Stopped {
                actor.step = Modifier::Wants;
            }
        }
    }
}
