//! A model checker over a freeze: explores every interleaving of writers, of a process that stores through a
//! mapping, of premod, and of premod's sudden end. docs/freeze.md, "Checked by a model", says what it covers.
//! To see the numbers: `cargo test -p premod-common --test freeze -- --nocapture --test-threads 1`.

mod actors;
mod freezer;
mod model;
mod rules;

use std::{fmt::Write, time::Instant};

use stateright::{Checker, HasDiscoveries, Model};

use model::{Freeze, LEFT_STOPPED, NEVER_FROZEN, UNTOLD};
use rules::{MUTANTS, Rules};

/// The promise that a freeze by these rules breaks first, if any, and how it comes to that.
fn explore(rules: Rules, what: &str) -> Option<(&'static str, String)> {
    let begun = Instant::now();
    let checker = Freeze { rules }
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
    let broken = [UNTOLD, LEFT_STOPPED].into_iter().find_map(|promise| {
        let mut trace = String::new();
        for (state, action) in checker.discovery(promise)?.into_vec() {
            let steps: Vec<_> = state.actors.iter().map(|actor| actor.step).collect();
            let _ = write!(trace, "\n{:?} {steps:?}: {action:?}", state.freezer);
        }
        Some((promise, trace))
    });
    // Nothing is proved of a freeze that never comes about.
    let vain = || checker.discovery(NEVER_FROZEN).is_none();
    broken.or_else(|| vain().then(|| (NEVER_FROZEN, String::new())))
}

#[test]
fn whatever_modifies_frozen_files_is_told_and_nobody_is_left_stopped() {
    if let Some((promise, trace)) = explore(Rules::AS_BUILT, "as built") {
        panic!("broken: {promise}: {trace}");
    }
}

#[test]
fn every_rule_is_needed() {
    for mutant in MUTANTS {
        let broken = explore(mutant.rules, mutant.without);
        let broken = broken.map(|(promise, _)| promise);
        assert_eq!(broken, Some(mutant.breaks), "without: {}", mutant.without);
    }
}
