//! A model checker over the generation protocol.

mod configuration;
mod hook;
mod kernel;
mod model;
mod program;
mod property;
mod protocol;
mod state;

use std::time::Instant;

use stateright::{Checker, Expectation, Model};

use configuration::{ALL, Configuration};
use model::Generations;
use protocol::{Protocol, REAL};

fn explore(configuration: &'static Configuration, protocol: Protocol) -> Vec<String> {
    let begun = Instant::now();
    let model = Generations {
        configuration,
        protocol,
    };
    let threads = std::env::var("T").map_or(1, |t| t.parse().unwrap());
    let when = if std::env::var("FAST").is_ok() { stateright::HasDiscoveries::AnyFailures } else { stateright::HasDiscoveries::All };
    let checker = model.checker().threads(threads).finish_when(when).spawn_bfs().join();
    println!(
        "{:60} {:>9} states, depth {:>3}, {:.2} s",
        configuration.name,
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    let mut failures = Vec::new();
    for property in model.properties() {
        let found = checker.discovery(property.name);
        match (property.expectation, found) {
            (Expectation::Sometimes, None) => {
                println!("   NEVER: {}", property.name);
                failures.push(property.name.to_owned());
            }
            (Expectation::Always, Some(path)) => {
                println!("   BROKEN: {}", property.name);
                for (state, action) in path.into_vec() {
                    if let Some(action) = action {
                        print!("      {action:?}");
                        if let model::Action::Step(i) | model::Action::Skip(i) = action {
                            let a = state.actors[i];
                            print!(" {:?}@{} {:?}", model.op(&state, i), format!("{:?}", model.next_instruction(&state, i)).chars().filter(|c| c.is_ascii_uppercase()|| c.is_ascii_digit()).collect::<String>() + &a.pc.to_string(), a.hook);
                        }
                        println!();
                    }
                }
                failures.push(property.name.to_owned());
            }
            _ => {}
        }
    }
    failures
}

#[test]
fn the_protocol_keeps_its_promises() {
    let only = std::env::var("ONLY").ok();
    let mut failures = 0;
    for configuration in ALL {
        if only.as_ref().is_some_and(|o| !configuration.name.contains(o)) { continue; }
        failures += explore(configuration, if std::env::var("REAL").is_ok() { REAL } else { protocol::FIXED }).len();
    }
    assert_eq!(failures, 0);
}
