//! premod, and what is done in its place when it is dead: by the keeper, or by the next premod if that is dead, too.

use premod_common::guard::Phase;

use crate::{
    actors::{Actor, Step as Modifier, Way},
    keeper::Keeper,
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
    HoldUsers,
    Close,
    WaitForClosedHooks,
    WaitForFlights,
    HoldUsersAgain,
    Count,
    Flush,
    Verify,
    /// CMD reads.
    Frozen,
    Open,
    LetGo,
    ContinueFirst,
    WaitForOpenHooks,
    ContinueAgain,
    Over,
}

/// premod, or who does it in its place, takes its next step; `None` if it waits or is done.
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
            Step::HoldUsers
        }
        Step::HoldUsers => return hold_users(next, rules, Step::Close),
        Step::Close => {
            next.phase = Phase::Closed as u64;
            Step::WaitForClosedHooks
        }
        Step::WaitForClosedHooks if obeyed => Step::WaitForFlights,
        Step::WaitForFlights
            if !rules.waits_for_flights || !state.actors.iter().any(|actor| actor.in_flight) =>
        {
            Step::HoldUsersAgain
        }
        Step::HoldUsersAgain if !rules.holds_users_again => Step::Count,
        Step::HoldUsersAgain => return hold_users(next, rules, Step::Count),
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
                next.writable = false;
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
            Step::LetGo
        }
        Step::LetGo => {
            next.let_all_go(Keeper::Ending);
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

/// Has those held that map the file, until there are no new ones and all stand still.
fn hold_users(mut state: State, rules: Rules, then: Step) -> Option<State> {
    if list_users(&mut state, rules) {
        return Some(state);
    }
    let works = state.keeper == Keeper::Works;
    let obeys = |actor: &Actor| actor.is_trapped_or_done() || !works && actor.stands_still();
    if !rules.waits_for_users || state.users().all(obeys) {
        state.freezer = then;
        return Some(state);
    }
    // A keeper that is dead has answered nothing: whom it was to seize is stopped by a signal.
    let mut stopped = false;
    for actor in state.actors.iter_mut().filter(|actor| actor.listed) {
        if !works && !actor.stands_still() && !actor.signalled {
            stop(actor);
            stopped = true;
        }
    }
    stopped.then_some(state)
}

/// Asks for those that map the file and were not asked for yet; whether there were any.
fn list_users(state: &mut State, rules: Rules) -> bool {
    let works = state.keeper == Keeper::Works;
    let mut new = false;
    for index in 0..state.actors.len() {
        let one_is_enough = !rules.holds_all_users && state.users().next().is_some();
        let actor = &mut state.actors[index];
        if actor.way != Way::Store || !actor.maps || actor.listed || one_is_enough {
            continue;
        }
        actor.listed = true;
        new = true;
        if works {
            actor.ordered = true;
        } else {
            stop(actor);
        }
    }
    new
}

/// SIGSTOP to a process, by premod.
fn stop(actor: &mut Actor) {
    actor.held = true;
    actor.signalled = true;
}

/// premod is killed: hooks let everybody pass, and the keeper does what is left. Its programs still run for a while.
pub(crate) fn die(state: &State) -> Option<State> {
    (Step::Watch < state.freezer && state.freezer < Step::Open).then(|| State {
        freezer: Step::Open,
        premod_is_dead: true,
        modified: false,
        ..state.clone()
    })
}

/// SIGCONT to everybody on the list: a stop that is on its way is cancelled, too.
fn continue_all(state: &mut State) {
    for actor in &mut state.actors {
        if actor.held {
            actor.held = false;
            actor.go_on();
        }
    }
}

impl State {
    /// Whom premod has asked for.
    pub(crate) fn users(&self) -> impl Iterator<Item = &Actor> {
        self.actors.iter().filter(|actor| actor.listed)
    }

    /// Nobody is seized any more.
    pub(crate) fn let_all_go(&mut self, keeper: Keeper) {
        self.keeper = keeper;
        for actor in &mut self.actors {
            actor.seized = false;
            actor.ordered = false;
            if actor.step == Modifier::Trapped {
                actor.step = Modifier::Wants;
            }
        }
    }
}
