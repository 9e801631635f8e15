//! A model checker over PATHs as names: explores every interleaving of somebody who renames directories, of premod, which
//! follows and tells the kernel side entry by entry, and of a writer for whose file a verdict is found. docs/protocol.md,
//! "Below a PATH", says what it covers.
//! To see the numbers: `cargo test -p premod-common --test scope -- --nocapture --test-threads 1`.

mod follower;
mod model;
mod rules;
mod search;
mod world;

use std::{fmt::Write, time::Instant};

use stateright::{Checker, HasDiscoveries, Model};

use model::{DECIDED, KNOWN_OUTSIDE, MISSED, NEW_OUTSIDE, Scope, WORLDS, World};
use rules::{MUTANTS, Rules};

/// Whether some file is missed by these rules, and how it comes to that.
fn explore(rules: Rules, world: World, what: &str) -> Option<String> {
    let begun = Instant::now();
    let checker = Scope { rules, world }
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{what:<60} {:>9} states, depth {:>3}, {:.2} s",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    let missed = checker.discovery(MISSED).map(|path| {
        let mut trace = String::new();
        for (state, action) in path.into_vec() {
            let _ = write!(trace, "\n{state:?}\n  {action:?}");
        }
        trace
    });
    // Whoever takes everything for inside, or for undecided, misses nothing. To use what was decided takes three touches.
    let vain = |promise| checker.discovery(promise).is_none();
    let enough = world.touches >= 3;
    let known = world.new == 0 && (vain(DECIDED) || vain(KNOWN_OUTSIDE));
    let new = world.new > 0 && vain(NEW_OUTSIDE);
    if missed.is_none() && enough && (known || new) {
        return Some("nothing is ever decided".to_owned());
    }
    missed
}

#[test]
fn no_file_below_a_path_is_taken_for_outside() {
    for world in WORLDS {
        if let Some(trace) = explore(Rules::AS_BUILT, world, "as built") {
            panic!("missed in {world:?}: {trace}");
        }
    }
}

#[test]
fn every_rule_is_needed() {
    for mutant in MUTANTS {
        let breaks = |world| explore(mutant.rules, world, mutant.without).is_some();
        assert!(
            WORLDS.into_iter().any(breaks),
            "without: {}",
            mutant.without
        );
    }
}
