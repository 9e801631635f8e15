//! A model checker over the generation protocol: explores every interleaving of a few actors in small
//! worlds. docs/protocol.md, "Checked by a model", says what it covers. To see the numbers:
//! `cargo test -p premod-common --test model -- --nocapture --test-threads 1`.

mod announce;
mod configuration;
mod entry;
mod hook;
mod kernel;
mod memory;
mod model;
mod mutant;
mod program;
mod property;
mod protocol;
mod state;

use std::{fmt::Write, time::Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use configuration::Configuration;
use model::Generations;
use mutant::Mutant;
use property::Broken;
use protocol::{AS_COMPILED, Protocol};

/// Explores to the end, or to the first broken promise; says what was not as expected, with a trace.
fn explore(
    configuration: &'static Configuration,
    protocol: Protocol,
    what: &str,
) -> Vec<(String, String)> {
    let begun = Instant::now();
    let model = Generations {
        configuration,
        protocol,
    };
    let checker = model
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
    let mut failures = Vec::new();
    for property in model.properties() {
        match (property.expectation, checker.discovery(property.name)) {
            (Expectation::Sometimes, None) => {
                failures.push((property.name.to_owned(), "never seen".to_owned()));
            }
            (Expectation::Always, Some(path)) => {
                let mut trace = String::new();
                for (state, action) in path.into_vec() {
                    let Some(action) = action else { continue };
                    let _ = write!(trace, "\n  {action:?}");
                    if let model::Action::Step(index) | model::Action::Skip(index) = action {
                        let _ = write!(
                            trace,
                            " {:?} {:?} {:?}",
                            model.op(&state, index),
                            model.instruction(&state, index),
                            state.actors[index].hook
                        );
                    }
                }
                failures.push((property.name.to_owned(), trace));
            }
            _ => {}
        }
    }
    failures
}

#[test]
fn every_small_world_keeps_the_promises() {
    let mut report = String::new();
    for configuration in configuration::ALL {
        for (name, trace) in explore(configuration, AS_COMPILED, configuration.name) {
            let _ = write!(report, "\n{}: {name}: {trace}", configuration.name);
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn every_mutant_is_caught_by_the_promise_it_breaks() {
    let mut report = String::new();
    for Mutant {
        rule,
        configuration,
        breaks,
        protocol,
    } in mutant::ALL
    {
        let world = configuration::ALL
            .iter()
            .find(|known| known.name == *configuration)
            .expect("a configuration of that name");
        let failures = explore(world, *protocol, rule);
        if !failures.iter().any(|(name, _)| name == breaks.promise()) {
            let names: Vec<_> = failures.iter().map(|(name, _)| name).collect();
            let _ = write!(report, "\n{rule}: {breaks:?} is not broken; {names:?}");
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn every_promise_has_a_sentence_of_its_own() {
    let mut sentences: Vec<_> = Broken::ALL.iter().map(|broken| broken.promise()).collect();
    sentences.sort_unstable();
    sentences.dedup();
    assert_eq!(sentences.len(), Broken::ALL.len());
}
