//! The kernel side: finds out where the writer's file is, one access to shared memory per step, and keeps what it finds.

use crate::{
    model::State,
    rules::Rules,
    world::{Directory, Name},
};

/// What a search says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Whereabouts {
    Inside,
    Outside,
    Undecided,
}

/// Where the writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Nothing is asked.
    Writes,
    /// It has read the epoch, and looks for a kept verdict.
    Asks { epoch: u8 },
    /// It has used a kept verdict in this epoch, and notes in the slot that the file is outside.
    Notes { epoch: u8 },
    /// It is at this directory.
    At { walk: Walk, here: Directory },
    /// It has found the directory above.
    Above {
        walk: Walk,
        child: Directory,
        here: Directory,
    },
    /// It knows that names are watched here.
    Named {
        walk: Walk,
        child: Directory,
        here: Directory,
    },
    /// It has come to an end.
    Found { walk: Walk, found: Whereabouts },
}

/// A search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Walk {
    /// The epoch in which it began.
    epoch: u8,
    /// It is the second.
    again: bool,
}

/// One step, by the file in this `db`.
pub(crate) fn step(state: &State, rules: Rules) -> Option<State> {
    let mut next = state.clone();
    let home = Directory::Db(state.home);
    next.writer = match state.writer {
        Step::Writes if state.touches == 0 => return None,
        Step::Writes => {
            next.touches -= 1;
            // Whoever moves is in the middle of it until the rename has returned.
            next.undisturbed = state.tree.is_path(state.home) && !state.is_renaming;
            if state.slot == Some(state.epoch) {
                next.finish(Whereabouts::Outside);
                return Some(next);
            }
            Step::Asks { epoch: state.epoch }
        }
        Step::Asks { epoch } => match state.kept {
            Some((of, true)) if of == epoch => {
                next.finish(Whereabouts::Inside);
                return Some(next);
            }
            Some((of, false)) if of == epoch => Step::Notes { epoch },
            _ => begin(state, home, false),
        },
        Step::Notes { epoch } => {
            next.slot = Some(if rules.slots_get_epoch_of_verdict {
                epoch
            } else {
                state.epoch
            });
            next.finish(Whereabouts::Outside);
            return Some(next);
        }
        Step::At { walk, here } => match here {
            Directory::Db(db) if state.maps.root[usize::from(db)] => {
                found(walk, Whereabouts::Inside)
            }
            Directory::Top => found(walk, Whereabouts::Outside),
            child => Step::Above {
                walk,
                child,
                here: state.tree.parent(child).0,
            },
        },
        Step::Above { walk, child, here } => match here {
            Directory::App(app) if !state.maps.marked[usize::from(app)] => Step::At { walk, here },
            _ => Step::Named { walk, child, here },
        },
        Step::Named { walk, child, here } => match (here, state.tree.parent(child).1) {
            (Directory::App(app), Name::Db) if state.maps.names[usize::from(app)] => {
                found(walk, Whereabouts::Inside)
            }
            (Directory::Top, Name::App) if state.maps.app.map(Directory::App) != Some(child) => {
                found(walk, Whereabouts::Undecided)
            }
            _ => Step::At { walk, here },
        },
        Step::Found { walk, found } => {
            let holds = found != Whereabouts::Outside
                || state.epoch == walk.epoch
                || !rules.looks_at_epoch_again;
            if !holds && !walk.again {
                begin(state, home, true)
            } else {
                let found = if holds { found } else { Whereabouts::Undecided };
                if found != Whereabouts::Undecided {
                    next.kept = Some((walk.epoch, found == Whereabouts::Inside));
                }
                next.finish(found);
                return Some(next);
            }
        }
    };
    Some(next)
}

fn begin(state: &State, home: Directory, again: bool) -> Step {
    let epoch = state.epoch;
    Step::At {
        walk: Walk { epoch, again },
        here: home,
    }
}

fn found(walk: Walk, found: Whereabouts) -> Step {
    Step::Found { walk, found }
}
