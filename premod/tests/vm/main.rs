//! The promises, tested on a real kernel. Runs inside of the virtual machine only: `cargo xtask test`
//! takes it there. Each file is about one promise; each test's name says it.
//!
//! `premod-vm-test [FILTER]` prints a JSON verdict per test; other words make it the program under trace.

mod accounting;
mod aliases;
mod cgroups;
mod command;
mod containers;
mod coverage;
mod detached;
mod diagnosis;
mod directories;
mod excluded;
mod first_dirty;
mod freeze;
mod harness;
mod hostile;
mod identity;
mod jobs;
mod limit;
#[expect(dead_code, reason = "the soak needs more of it")]
mod maps;
mod names;
mod naming;
mod neighbours;
mod paths;
mod privileges;
mod races;
mod refusals;
mod shell;
mod silence;
mod skips;
mod spin;
mod tools;
mod trace;
mod verifier;
mod workload;

use harness::Test;

/// All tests, in the order in which they run. The last one changes the kernel for good.
fn tests() -> Vec<Test> {
    [
        first_dirty::TESTS,
        silence::TESTS,
        paths::TESTS,
        verifier::TESTS,
        aliases::TESTS,
        names::TESTS,
        naming::TESTS,
        neighbours::TESTS,
        directories::TESTS,
        excluded::TESTS,
        cgroups::TESTS,
        privileges::TESTS,
        identity::TESTS,
        hostile::TESTS,
        accounting::TESTS,
        &coverage::tests(),
        &freeze::tests(),
        races::TESTS,
        skips::TESTS,
        command::TESTS,
        shell::TESTS,
        jobs::TESTS,
        containers::TESTS,
        diagnosis::TESTS,
        refusals::TESTS,
    ]
    .concat()
}

fn main() -> std::process::ExitCode {
    // One of its programs freezes, and runs once more for that.
    premod::freeze::keep_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("act") => freeze::actor::run(&arguments[1..]),
        Some(word) if workload::is_known(word) => workload::run(word, &arguments[1..]),
        filter => harness::run(&tests(), filter.unwrap_or_default()),
    }
}
