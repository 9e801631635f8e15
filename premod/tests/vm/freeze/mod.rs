//! What `premod freeze` promises.

pub(crate) mod actor;
mod commands;
pub(crate) mod fuse;
pub(crate) mod in_flight;
mod kernel_use;
pub(crate) mod let_go;
pub(crate) mod library;
mod memory;
mod names;
mod nowhere;
mod parts;
pub(crate) mod places;
pub(crate) mod policies;
#[path = "../../freeze/premod.rs"]
pub(crate) mod premod;
#[path = "../../freeze/process.rs"]
pub(crate) mod process;
mod races;
mod refusals;
mod shared;
pub(crate) mod unseen;
pub(crate) mod users;
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
        users::TESTS,
        memory::TESTS,
        names::TESTS,
        let_go::TESTS,
        shared::TESTS,
        unseen::TESTS,
        places::TESTS,
        races::TESTS,
        refusals::TESTS,
        kernel_use::TESTS,
        commands::TESTS,
        library::TESTS,
        parts::TESTS,
    ]
    .concat()
}
