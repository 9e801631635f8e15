//! The keeper: it seizes whom it is told to.

use crate::{freezer::Step, model::State, rules::Rules};

/// What the keeper does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Keeper {
    /// It seizes.
    Works,
    /// It has let everybody go, and seizes nobody any more.
    Ending,
    /// It was killed, and the kernel has let everybody go.
    Dead,
}

/// Seizes one that waits for it, or that premod has asked for.
pub(crate) fn seize(state: &State, index: usize) -> Option<State> {
    let actor = &state.actors[index];
    if state.keeper != Keeper::Works || !actor.ordered || actor.seized {
        return None;
    }
    let mut next = state.clone();
    next.actors[index].seized = true;
    Some(next)
}

/// The keeper is killed. What it was in the middle of is begun again, by premod or by the next one.
pub(crate) fn die(state: &State, rules: Rules) -> Option<State> {
    if state.keeper == Keeper::Dead || state.freezer == Step::Over {
        return None;
    }
    let mut next = state.clone();
    next.let_all_go(Keeper::Dead);
    if state.freezer > Step::Open {
        next.freezer = Step::Open;
    }
    // The list of those that were stopped is nobody's.
    if next.freezer == Step::Open && state.premod_is_dead && !rules.pins_the_list {
        next.actors.iter_mut().for_each(|actor| actor.held = false);
    }
    Some(next)
}
