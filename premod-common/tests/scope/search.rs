//! The kernel side: finds out where the writer's file is, one access to shared memory per step, and keeps what it finds.

use crate::{
    model::{OfDirectory, Rename, State},
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
    /// It has read how many renames have begun; it looks for its directory's verdict.
    AsksForAll { touch: Touch, begun: Option<u8> },
    /// It has found none, and looks how many have ended.
    Counts { touch: Touch, begun: u8 },
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

/// A touch that has to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Touch {
    /// The epoch in which it began.
    epoch: u8,
    /// The file is new.
    new: bool,
}

/// A search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Walk {
    touch: Touch,
    how: How,
}

/// What it is that finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum How {
    /// The directory's verdict.
    Asked,
    /// A search; if no rename is under way, how many had begun.
    First(Option<u8>),
    /// Another one.
    Again,
}

/// A new file is written.
pub(crate) fn create(state: &State) -> Option<State> {
    if state.writer != Step::Writes || state.touches == 0 || state.new == 0 {
        return None;
    }
    let mut next = state.clone();
    next.touches -= 1;
    next.new -= 1;
    // It is where its directory is, whether or not whoever has moved that knows already.
    next.undisturbed = state.tree.is_path(state.home);
    next.writer = Step::AsksForAll {
        touch: Touch {
            epoch: state.epoch,
            new: true,
        },
        begun: None,
    };
    Some(next)
}

/// One step, by the file in this `db`.
pub(crate) fn step(state: &State, rules: Rules) -> Option<State> {
    let mut next = state.clone();
    let home = Directory::Db(state.home);
    next.writer = match state.writer {
        Step::Writes if state.touches <= state.new => return None,
        Step::Writes => {
            next.touches -= 1;
            // Whoever moves is in the middle of it until the rename has returned.
            next.undisturbed =
                state.tree.is_path(state.home) && state.rename != Some(Rename::Moved);
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
            _ => Step::AsksForAll {
                touch: Touch { epoch, new: false },
                begun: None,
            },
        },
        Step::AsksForAll { touch, begun: None } => Step::AsksForAll {
            touch,
            begun: Some(state.begun),
        },
        Step::AsksForAll {
            touch,
            begun: Some(begun),
        } => match state.of_directory {
            Some(kept)
                if kept.epoch == touch.epoch
                    && (kept.begun == begun || !rules.renames_begin_before_they_move) =>
            {
                let inside = [Whereabouts::Outside, Whereabouts::Inside];
                let how = How::Asked;
                found(Walk { touch, how }, inside[usize::from(kept.inside)])
            }
            _ => Step::Counts { touch, begun },
        },
        Step::Counts { touch, begun } => {
            let calm = begun == state.ended || !rules.keeps_none_during_renames;
            let how = How::First(calm.then_some(begun));
            Step::At {
                walk: Walk { touch, how },
                here: home,
            }
        }
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
            let Walk { touch, how } = walk;
            let holds = found != Whereabouts::Outside
                || state.epoch == touch.epoch
                || !rules.looks_at_epoch_again;
            match how {
                How::Asked | How::First(_) if !holds => Step::At {
                    walk: Walk {
                        touch: Touch {
                            epoch: state.epoch,
                            ..touch
                        },
                        how: How::Again,
                    },
                    here: home,
                },
                _ => {
                    let found = if holds { found } else { Whereabouts::Undecided };
                    if found != Whereabouts::Undecided {
                        next.keep(walk, found == Whereabouts::Inside);
                    }
                    next.finish(found);
                    next.as_directory = how == How::Asked;
                    return Some(next);
                }
            }
        }
    };
    Some(next)
}

impl State {
    /// Keeps what was found, for the file and for its neighbours.
    fn keep(&mut self, walk: Walk, inside: bool) {
        let epoch = walk.touch.epoch;
        if !walk.touch.new {
            self.kept = Some((epoch, inside));
        }
        if let How::First(Some(begun)) = walk.how {
            self.of_directory = Some(OfDirectory {
                epoch,
                begun,
                inside,
            });
        }
    }
}

fn found(walk: Walk, found: Whereabouts) -> Step {
    Step::Found { walk, found }
}
