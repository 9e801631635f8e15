//! A model checker over a freeze: explores every interleaving of writers, of threads that store through a mapping, of
//! premod and its keeper, and of their sudden ends. docs/freeze.md, "Checked by a model", says what it covers.
//! To see the numbers: `cargo test -p premod-common --test freeze -- --nocapture --test-threads 1`.

mod actors;
mod freezer;
mod keeper;
mod model;
mod rules;

use std::{fmt::Write, time::Instant};

use stateright::{Checker, HasDiscoveries, Model};

use model::{Freeze, LEFT_STOPPED, MODIFIED, NEVER_FROZEN, UNTOLD, World};
use rules::{MUTANTS, Rules};

/// Explores a freeze by these rules until one of these promises is broken; which one, and how it comes to that.
fn explore(
    freeze: Freeze,
    promises: &[&'static str],
    what: &str,
) -> Option<(&'static str, String)> {
    let begun = Instant::now();
    let checker = freeze
        .checker()
        .finish_when(HasDiscoveries::AnyOf(promises.iter().copied().collect()))
        .spawn_bfs()
        .join();
    println!(
        "{what:<60} {:>9} states, depth {:>3}, {:.2} s",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    let broken = promises.iter().find_map(|promise| {
        let mut trace = String::new();
        for (state, action) in checker.discovery(promise)?.into_vec() {
            let steps: Vec<_> = state.actors.iter().map(|actor| actor.step).collect();
            let _ = write!(trace, "\n{:?} {steps:?}: {action:?}", state.freezer);
        }
        Some((*promise, trace))
    });
    // Nothing is proved of a freeze that never comes about.
    let vain = || checker.discovery(NEVER_FROZEN).is_none();
    broken.or_else(|| vain().then(|| (NEVER_FROZEN, String::new())))
}

#[test]
fn whatever_modifies_frozen_files_is_told_and_nobody_is_left_stopped() {
    for world in [World::Alone, World::Together] {
        let rules = Rules::AS_BUILT;
        let what = format!("as built, {world:?}");
        let promises = [UNTOLD, MODIFIED, LEFT_STOPPED];
        if let Some((promise, trace)) = explore(Freeze { rules, world }, &promises, &what) {
            panic!("broken: {promise}: {trace}");
        }
    }
}

#[test]
fn every_rule_is_needed() {
    for mutant in MUTANTS {
        let (rules, world) = (mutant.rules, mutant.world);
        let broken = explore(Freeze { rules, world }, &[mutant.breaks], mutant.without);
        let broken = broken.map(|(promise, _)| promise);
        assert_eq!(broken, Some(mutant.breaks), "without: {}", mutant.without);
    }
}
