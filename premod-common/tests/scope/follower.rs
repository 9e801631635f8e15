//! premod's user side: looks where PATH leads to, name by name, and tells the kernel side, entry by entry.

use crate::{
    model::State,
    rules::Rules,
    world::{BOTH, Maps},
};

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Nothing has changed that it knows of.
    Rests,
    /// It has found `app`, and looks for `db` there.
    Found(Option<u8>),
    /// It makes these changes, the last one first.
    Tells(Vec<Change>, Maps),
}

/// A change that comes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Mark(u8, bool),
    Root(u8, bool),
    Name(u8, bool),
    Expect(Option<u8>),
    Epoch,
}

pub(crate) fn step(state: &State, rules: Rules) -> Option<State> {
    let mut next = state.clone();
    next.follower = match &state.follower {
        Step::Rests if state.looks > 0 => {
            next.looks -= 1;
            Step::Found(state.tree.app)
        }
        Step::Rests => return None,
        Step::Found(app) => {
            // The directory is open: it is looked into wherever it is.
            let db = app.and_then(|app| state.tree.db_in(app));
            let wanted = Maps::of(*app, db);
            if wanted == state.told {
                Step::Rests
            } else {
                let mut changes = changes(&state.told, &wanted, rules);
                changes.reverse();
                Step::Tells(changes, wanted)
            }
        }
        Step::Tells(changes, wanted) => {
            let mut changes = changes.clone();
            if let Some(change) = changes.pop() {
                apply(&mut next, change);
            }
            if changes.is_empty() {
                next.told = *wanted;
                Step::Rests
            } else {
                Step::Tells(changes, *wanted)
            }
        }
    };
    Some(next)
}

/// In the order of premod/src/scope.rs, `Scope::tell`.
fn changes(told: &Maps, wanted: &Maps, rules: Rules) -> Vec<Change> {
    let differ = |before: [bool; 2], after: [bool; 2], to: bool| {
        BOTH.into_iter().filter(move |&this| {
            let this = usize::from(this);
            before[this] != after[this] && after[this] == to
        })
    };
    let mut new: Vec<Change> = Vec::new();
    new.extend(differ(told.marked, wanted.marked, true).map(|app| Change::Mark(app, true)));
    new.extend(differ(told.root, wanted.root, true).map(|db| Change::Root(db, true)));
    new.extend(differ(told.names, wanted.names, true).map(|app| Change::Name(app, true)));
    let old = differ(told.names, wanted.names, false).map(|app| Change::Name(app, false));
    let mut order = Vec::new();
    if !rules.old_names_last {
        order.extend(old.clone());
    }
    if rules.new_entries_first {
        order.append(&mut new);
    }
    if rules.epoch_after_new_entries {
        order.push(Change::Epoch);
    }
    order.push(Change::Expect(wanted.app));
    order.append(&mut new);
    order.extend(differ(told.root, wanted.root, false).map(|db| Change::Root(db, false)));
    order.extend(differ(told.marked, wanted.marked, false).map(|app| Change::Mark(app, false)));
    if rules.old_names_last {
        order.extend(old);
    }
    order.push(Change::Epoch);
    order
}

fn apply(state: &mut State, change: Change) {
    let maps = &mut state.maps;
    match change {
        Change::Mark(app, is) => maps.marked[usize::from(app)] = is,
        Change::Root(db, is) => maps.root[usize::from(db)] = is,
        Change::Name(app, is) => maps.names[usize::from(app)] = is,
        Change::Expect(app) => maps.app = app,
        Change::Epoch => state.epoch += 1,
    }
}
