//! The numbers of the part `changes`, and its faults.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, time::Duration};

use crate::{
    board::Board,
    changes::Log,
    crew::WORKERS,
    judge::{Fault, FileId, Judge, Numbers},
    kinds::Kind,
};

/// Faults that are told in full.
const TOLD: usize = 10;

pub(crate) fn number(what: &str, number: u64) {
    println!("{what:<58} {number:>9}");
}

/// How often each operation was done.
pub(crate) fn operations(board: &Board, elapsed: Duration) {
    let seconds = elapsed.as_secs();
    println!("operations by {WORKERS} processes in {seconds} s:");
    let (mut all, mut changing) = (0, 0);
    for kind in Kind::all() {
        let (done, failed) = board.counted(kind);
        all += done;
        changing += if kind.dirties() { done } else { 0 };
        println!("  {:<22} {done:>9}   {failed:>7} failed", kind.name());
    }
    println!("  in all {all:>24}   {changing} of them modify data");
}

/// What the comparisons have shown.
pub(crate) fn periods(numbers: &Numbers, replaced: u64) {
    for (what, count) in [
        ("clean periods compared", numbers.periods),
        ("  the content changed", numbers.changed),
        ("  modified, but the content is the same", numbers.same),
        ("  modified, the event came before", numbers.before),
        ("  modified, the event says that it is late", numbers.late),
        (
            "  not modified, but an event (false alarm)",
            numbers.false_alarms,
        ),
        (
            "  modified and never written back: one event",
            numbers.undisturbed,
        ),
        (
            "    or more, of modifications that began together",
            numbers.together,
        ),
        ("modifications in these periods", numbers.modifications),
        (
            "periods without comparison: the file was replaced",
            replaced,
        ),
        ("first-dirty events", numbers.events),
        ("  second and further ones of a period", numbers.repeated),
        ("    late ones among these", numbers.repeated_late),
        ("  while the file was being checked", numbers.between),
        (
            "  of files that were not being observed",
            numbers.unobserved,
        ),
    ] {
        number(what, count);
    }
}

/// Tells the faults, and says how it ended.
pub(crate) fn verdict(mounts: &[(String, PathBuf)], judge: &Judge<Log>) -> ExitCode {
    let (unexplained, explained) = judge.sorted_faults();
    for fault in unexplained.iter().chain(&explained).take(TOLD) {
        tell(mounts, fault);
        let losses: BTreeSet<&str> = judge.losses_of(fault).into_iter().collect();
        for loss in losses {
            println!("  may be explained by the loss at: {loss}");
        }
    }
    let count = judge.faults.len();
    number("faults", count as u64);
    number("  at the time of a reported loss", explained.len() as u64);
    let numbers = &judge.numbers;
    if numbers.changed == 0 || numbers.before == 0 || numbers.undisturbed == 0 {
        eprintln!("soak: too little was compared: this says nothing");
        return ExitCode::FAILURE;
    }
    if let Some(first) = unexplained.first().or(explained.first()) {
        eprintln!(
            "soak: {count} faults in {} periods ({} of them at the time of a loss that premod has \
             reported), the first: {:?}",
            numbers.periods,
            explained.len(),
            first.reason
        );
        return ExitCode::FAILURE;
    }
    println!("every change was announced");
    ExitCode::SUCCESS
}

/// Says all that is known about a fault.
fn tell(mounts: &[(String, PathBuf)], fault: &Fault<Log>) {
    let FileId {
        filesystem,
        inode,
        generation,
    } = fault.file;
    println!(
        "FAULT {:?}: {} inode {inode} igen {generation}, from {} to {}",
        fault.reason, mounts[filesystem].0, fault.at.0, fault.at.1
    );
    for event in &fault.events {
        println!("  event {event:?}");
    }
    let Some(period) = &fault.period else {
        return;
    };
    println!(
        "  {} before {:?} after {:?}, {} modifications, the first complete at {:?}, undisturbed: {}",
        period.prefix,
        period.before,
        period.after,
        period.changes,
        period.first_change,
        period.undisturbed
    );
    for entry in &period.log {
        let done = if entry.done { "" } else { " (failed)" };
        let elsewhere = if entry.elsewhere {
            " (another inode)"
        } else {
            ""
        };
        let name = entry.kind.name();
        println!(
            "  {} worker {} {name}{done}{elsewhere}",
            entry.at, entry.worker
        );
    }
}
