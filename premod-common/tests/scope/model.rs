//! The transition system that stateright explores.

use stateright::{Model, Property};

use crate::{
    follower,
    rules::Rules,
    search::{self, Whereabouts},
    world::{BOTH, Maps, Tree},
};

/// The promise: a file is below PATH from before a touch until after it; and if it has been touched before, nothing has moved
/// whose rename is not at its end.
pub(crate) const MISSED: &str = "no file below a PATH is taken for outside";
/// Without these the promise would be kept by deciding nothing.
pub(crate) const DECIDED: &str = "a file below the PATH is inside by a kept verdict";
pub(crate) const KNOWN_OUTSIDE: &str = "a file is outside by a quiet slot";
pub(crate) const NEW_OUTSIDE: &str = "a new file is outside as its directory is";

/// How much happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) renames: u8,
    /// How often premod looks where PATH leads to.
    pub(crate) looks: u8,
    /// How often a file is touched.
    pub(crate) touches: u8,
    /// So many of these are the first ones of new files.
    pub(crate) new: u8,
}

/// Worlds that are small enough to be explored in seconds, and large enough for every rule to be needed.
pub(crate) const WORLDS: [World; 4] = [
    World {
        renames: 2,
        looks: 2,
        touches: 2,
        new: 0,
    },
    World {
        renames: 2,
        looks: 1,
        touches: 3,
        new: 0,
    },
    World {
        renames: 4,
        looks: 1,
        touches: 1,
        new: 0,
    },
    World {
        renames: 2,
        looks: 1,
        touches: 3,
        new: 3,
    },
];

/// PATHs by these rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    pub(crate) rules: Rules,
    pub(crate) world: World,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) tree: Tree,
    /// How many renames, looks and touches are still to come, and how many of these may be of new files.
    pub(crate) renames: u8,
    pub(crate) looks: u8,
    pub(crate) touches: u8,
    pub(crate) new: u8,
    /// The rename that is under way.
    pub(crate) rename: Option<Rename>,
    /// How many have begun, and how many have ended.
    pub(crate) begun: u8,
    pub(crate) ended: u8,
    pub(crate) epoch: u8,
    pub(crate) maps: Maps,
    /// What user space has told last.
    pub(crate) told: Maps,
    pub(crate) follower: follower::Step,
    pub(crate) writer: search::Step,
    /// The `db` that the writer's file is in.
    pub(crate) home: u8,
    /// The file's verdict: of which epoch, and whether it is inside.
    pub(crate) kept: Option<(u8, bool)>,
    /// The epoch of the file's quiet slot.
    pub(crate) slot: Option<u8>,
    /// The verdict of its directory.
    pub(crate) of_directory: Option<OfDirectory>,
    /// The last touch was decided by that.
    pub(crate) as_directory: bool,
    /// The file has been what PATH leads to since the touch began.
    pub(crate) undisturbed: bool,
    /// What the last touch came to, and whether that was wrong.
    pub(crate) last: Option<Whereabouts>,
    pub(crate) missed: bool,
}

/// Where a rename is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rename {
    /// It has begun.
    Begun,
    /// The directory has moved, and its epoch has not begun.
    Moved,
}

/// What is kept for a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OfDirectory {
    pub(crate) epoch: u8,
    /// How many renames had begun.
    pub(crate) begun: u8,
    pub(crate) inside: bool,
}

impl State {
    /// A touch has come to an end.
    pub(crate) fn finish(&mut self, found: Whereabouts) {
        self.writer = search::Step::Writes;
        self.last = Some(found);
        self.missed |= self.undisturbed && found == Whereabouts::Outside;
        self.undisturbed = false;
        self.as_directory = false;
    }
}

/// What can happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A rename begins.
    Begin,
    /// A directory is renamed, so that the tree is this one.
    Rename(Tree),
    /// The rename comes to its end.
    Renamed,
    /// User space goes on.
    Follow,
    /// The writer goes on.
    Write,
    /// The writer makes a new file.
    Create,
}

impl Model for Scope {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let maps = Maps::of(Some(0), Some(0));
        let begin = |home| State {
            tree: Tree {
                app: Some(0),
                dbs: BOTH.map(Some),
            },
            renames: self.world.renames,
            looks: self.world.looks,
            touches: self.world.touches,
            new: self.world.new,
            rename: None,
            begun: 0,
            ended: 0,
            epoch: 0,
            maps,
            told: maps,
            follower: follower::Step::Rests,
            writer: search::Step::Writes,
            home,
            kept: None,
            slot: None,
            of_directory: None,
            as_directory: false,
            undisturbed: false,
            last: None,
            missed: false,
        };
        BOTH.map(begin).to_vec()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.rename {
            None if state.renames > 0 => actions.push(Action::Begin),
            None => {}
            Some(Rename::Begun) => {
                actions.extend(state.tree.renames().into_iter().map(Action::Rename));
            }
            Some(Rename::Moved) => actions.push(Action::Renamed),
        }
        actions.extend([Action::Follow, Action::Write, Action::Create]);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Begin => {
                next.renames -= 1;
                next.rename = Some(Rename::Begun);
                next.begun += 1;
            }
            Action::Rename(tree) => {
                next.tree = tree;
                next.rename = Some(Rename::Moved);
                next.undisturbed = false;
            }
            Action::Renamed => {
                next.rename = None;
                next.epoch += u8::from(self.rules.renames_begin_epochs);
                next.ended += 1;
            }
            Action::Follow => return follower::step(state, self.rules),
            Action::Write => return search::step(state, self.rules),
            Action::Create => return search::create(state),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(MISSED, |_, state: &State| !state.missed),
            Property::sometimes(DECIDED, |_, state: &State| {
                state.kept == Some((state.epoch, true))
                    && state.tree.is_path(state.home)
                    && state.last == Some(Whereabouts::Inside)
            }),
            Property::sometimes(KNOWN_OUTSIDE, |_, state: &State| {
                state.slot == Some(state.epoch) && !state.tree.is_path(state.home)
            }),
            Property::sometimes(NEW_OUTSIDE, |_, state: &State| {
                state.as_directory && state.last == Some(Whereabouts::Outside)
            }),
        ]
    }
}
