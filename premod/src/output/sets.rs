//! Sets of frozen files, for people.

use std::fmt::Write;

use premod_common::guard::{MmapPolicy, Mode};

use super::printable;
use crate::{
    events::{Pid, Tid},
    freeze::{
        keeper::Recovered,
        report::{CommName, Held, SetReport, Violation, Violations},
    },
};

/// Of so many files or processes the table shows a line each; the JSON form has all.
const SHOWN: usize = 16;

/// A row for each set, with its files and whom it holds below.
pub(crate) fn table(reports: &[SetReport]) -> String {
    let mut text = String::from(
        "PREMOD  STATE     MODE         MMAP    LEFT      FILES   HELD  REFUSED  VIOLATIONS\n",
    );
    for report in reports {
        row(&mut text, report);
        let files = report.files.iter().map(|file| printable(&file.path.0));
        details(&mut text, "file", files);
        details(&mut text, "held", report.held.iter().map(held));
        if report.killed > 0 {
            let killed = format!("{} processes, before they stored", report.killed);
            details(&mut text, "killed", [killed]);
        }
        if report.is_violated() {
            let told = report.violations.first.iter().map(violation);
            let whole = std::iter::once(violated(&report.violations));
            details(&mut text, "VIOLATED", whole.chain(told));
        }
        let command = report.command.iter().map(|command| {
            let words = command.argv.0.iter().map(|word| printable(word));
            format!("{} {}", command.pid.0, words.collect::<Vec<_>>().join(" "))
        });
        details(&mut text, "command", command);
    }
    text
}

fn row(text: &mut String, report: &SetReport) {
    let mode = match (report.mode, &report.errno) {
        (Mode::Hold, _) => "hold".to_owned(),
        (Mode::Deny, None) => "deny".to_owned(),
        (Mode::Deny, Some(errno)) => format!("deny={}", printable(errno.as_bytes())),
    };
    let mmap = match report.mmap {
        MmapPolicy::Hold => "hold",
        MmapPolicy::Kill => "kill",
        MmapPolicy::Report => "report",
        MmapPolicy::Stop => "stop",
    };
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "{:<7} {:<9} {mode:<12} {mmap:<7} {:<9} {:>5} {:>6} {:>8} {:>11}",
        report.pid.0,
        report.state.name(),
        seconds(report.remaining_ns),
        report.files.len(),
        report.held.len(),
        report.refused,
        report.violations.count,
    );
}

/// Lines of one kind below a row.
fn details(text: &mut String, kind: &str, lines: impl IntoIterator<Item = String>) {
    let mut lines = lines.into_iter();
    for line in lines.by_ref().take(SHOWN) {
        let _ = writeln!(text, "        {kind:<9} {line}");
    }
    let more = lines.count();
    if more > 0 {
        let _ = writeln!(text, "        {kind:<9} and {more} more (--json has all)");
    }
}

fn held(held: &Held) -> String {
    let mut text = format!(
        "for {}: {}",
        seconds(held.for_ns),
        process(held.pid, held.tid, &held.comm)
    );
    if held.stopped_by_others {
        text.push_str(", stopped by somebody else too");
    }
    match &held.op {
        Some(op) => text.push_str(&format!(", {}", op.name())),
        None => text.push_str(", beforehand"),
    }
    if let Some(path) = &held.path {
        text.push_str(&format!(" {}", printable(&path.0)));
    }
    text
}

/// What premod says when files are frozen.
pub(crate) fn frozen(report: &SetReport) -> String {
    let mut text = match &report.files[..] {
        [file] => format!("frozen: {}", printable(&file.path.0)),
        files => format!("frozen: {} files", files.len()),
    };
    let took = report.took_ns.unwrap_or(0) as f64 / 1e6;
    text.push_str(&format!(
        ", in {took:.1} ms (generation {}), for at most {}; {}",
        report.generation.unwrap_or(0),
        seconds(report.remaining_ns),
        match (report.mode, &report.errno) {
            (Mode::Hold, _) | (_, None) => "writers wait".to_owned(),
            (Mode::Deny, Some(errno)) => format!("writers get {errno}"),
        }
    ));
    text.push_str(&listed("; held: ", report.held.iter().map(held)));
    text
}

/// What premod says when everybody has been let go.
pub(crate) fn thawed(report: &SetReport, released: &Recovered) -> String {
    let mut text = String::from("thawed");
    for (count, what) in [
        (released.continued.len() as u64, "continued"),
        (report.refused, "calls refused"),
        (report.killed, "killed"),
    ] {
        if count > 0 {
            text.push_str(&format!("; {count} {what}"));
        }
    }
    let left = released
        .left
        .iter()
        .map(|(pid, comm, why)| format!("{} ({}): {why}", printable(comm), pid.0));
    text.push_str(&listed("; still stopped: ", left));
    if report.is_violated() {
        text.push_str(&format!("; {}", violated(&report.violations)));
    } else {
        text.push_str("; no file was modified");
    }
    text
}

/// The first few of a list, and how many more there are.
fn listed(head: &str, items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        return String::new();
    }
    let shown = &items[..items.len().min(SHOWN)];
    let mut text = format!("{head}{}", shown.join(", "));
    if items.len() > SHOWN {
        text.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    text
}

/// Who was held, refused or killed, and what it wanted to do.
pub(crate) fn kept_out(who: &Held) -> String {
    let mut text = process(who.pid, who.tid, &who.comm);
    if let Some(op) = &who.op {
        text.push_str(&format!(", {}", op.name()));
    }
    if let Some(path) = &who.path {
        text.push_str(&format!(" {}", printable(&path.0)));
    }
    text
}

/// A thread of a process, by name and numbers.
pub(crate) fn process(pid: Pid, tid: Tid, comm: &CommName) -> String {
    let comm = printable(&comm.0);
    if pid.0 == tid.0 {
        format!("{comm} ({})", pid.0)
    } else {
        format!("{comm} ({}, thread {})", pid.0, tid.0)
    }
}

/// What violations mean.
pub(crate) fn violated(violations: &Violations) -> String {
    let times = match violations.count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    };
    format!(
        "violated {times}: the files have changed, or may have; what was read of them is not safe"
    )
}

/// One violation, as far as it is known.
pub(crate) fn violation(violation: &Violation) -> String {
    let zoned = violation.timestamp.to_zoned(jiff::tz::TimeZone::system());
    let mut text = zoned.strftime("%H:%M:%S%.6f").to_string();
    if let Some(op) = violation.op {
        text.push_str(&format!(" {}", op.name()));
    }
    if let (Some(pid), Some(tid), Some(comm)) = (violation.pid, violation.tid, &violation.comm) {
        text.push_str(&format!(" by {}", process(pid, tid, comm)));
    }
    if let Some(path) = &violation.path {
        text.push_str(&format!(" of {}", printable(&path.0)));
    }
    text.push_str(&format!(": {}", printable(violation.why.as_bytes())));
    text
}

fn seconds(nanoseconds: u64) -> String {
    format!("{:.1} s", nanoseconds as f64 / 1e9)
}
