//! What `premod freeze` promises.

pub(crate) mod actor;
mod commands;
mod fuse;
pub(crate) mod in_flight;
mod parts;
mod policies;
#[path = "../../freeze/premod.rs"]
pub(crate) mod premod;
#[path = "../../freeze/process.rs"]
pub(crate) mod process;
mod races;
mod refusals;
pub(crate) mod ways;

use crate::{
    coverage,
    harness::{self, Test},
};

/// The tests of this boot. Without bpf among the security modules there is one: it is refused.
pub(crate) fn tests() -> Vec<Test> {
    if !harness::has_lsm() {
        return refusals::WITHOUT_LSM.to_vec();
    }
    [
        &coverage::frozen_tests(),
        policies::TESTS,
        in_flight::TESTS,
        races::TESTS,
        refusals::TESTS,
        commands::TESTS,
        parts::TESTS,
    ]
    .concat()
}
