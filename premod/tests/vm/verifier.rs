//! What the verifier goes through when premod starts: most of the time that a start takes.

use std::fs;

use crate::{
    harness::{Check, Place},
    tests,
};

tests! {
    on Every;
    Shared all_programs_together_are_verified_in_two_hundred_thousand_instructions,
}

/// The kernel takes a million of a single program. The aim is 150,000 (docs/benchmarks.md).
const MOST: u64 = 200_000;

fn all_programs_together_are_verified_in_two_hundred_thousand_instructions(_: &Place) -> Check {
    Box::new(|trace| {
        let programs = verified(trace.pid());
        assert!(programs.len() > 20, "{programs:?}");
        let all: u64 = programs.iter().sum();
        eprintln!("{} programs, {all} instructions", programs.len());
        assert!(all <= MOST, "{all} instructions: {programs:?}");
    })
}

/// `verified_insns` of each program that a process holds.
fn verified(pid: u32) -> Vec<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("premod runs");
    descriptors
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|text| {
            let count = text
                .lines()
                .find_map(|line| line.strip_prefix("verified_insns:"))?;
            count.trim().parse().ok()
        })
        .collect()
}
