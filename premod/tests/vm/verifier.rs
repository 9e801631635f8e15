//! What the verifier goes through when premod starts: most of the time that a start takes.

use std::{collections::BTreeMap, fs};

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

/// `verified_insns` of each program that a process holds, by however many descriptors.
fn verified(pid: u32) -> Vec<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("premod runs");
    let programs: BTreeMap<u64, u64> = descriptors
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|text| {
            let number = |name| {
                let value = text.lines().find_map(|line| line.strip_prefix(name))?;
                value.trim().parse().ok()
            };
            Some((number("prog_id:")?, number("verified_insns:")?))
        })
        .collect();
    programs.into_values().collect()
}
