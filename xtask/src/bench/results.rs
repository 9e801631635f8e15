//! What was measured on a kernel.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::vm::disk::Filesystem;

/// A line of the benchmark's output.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Line {
    /// A measurement.
    Cell(Cell),
    /// What an event costs the watcher.
    Event(Event),
    /// What the verifier had to do.
    Program(Program),
    /// Something that was measured in time.
    Figure(Figure),
    /// What was lost at some rate.
    Loss(Loss),
    /// A watcher that is not there.
    Absent(Absent),
}

/// What one operation costs while somebody watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cell {
    pub(crate) watcher: String,
    pub(crate) operation: String,
    /// The median.
    pub(crate) instructions: u64,
    pub(crate) least: u64,
    pub(crate) most: u64,
    pub(crate) samples: u64,
    /// Two runs agree.
    pub(crate) exact: bool,
}

/// What it costs the watcher to be told of one file, and to wait for a second; its system calls included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    pub(crate) watcher: String,
    pub(crate) per_event: u64,
    pub(crate) idle: u64,
}

/// How many instructions the verifier went through for a program; the kernel takes up to a million.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    pub(crate) program: String,
    pub(crate) verified: u64,
}

/// Something that was measured in time, in the emulated machine with two CPUs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Figure {
    pub(crate) figure: String,
    pub(crate) value: f64,
}

/// What share of the events was lost when they came at some rate, with two CPUs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Loss {
    /// Bytes of the ring buffer.
    pub(crate) buffer: u64,
    /// Events in a second.
    pub(crate) rate: f64,
    /// From 0 to 1.
    pub(crate) lost: f64,
}

/// A watcher that does not run here, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Absent {
    pub(crate) watcher: String,
    pub(crate) absent: String,
}

/// Everything that was measured on one kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measured {
    /// The kernel's series.
    pub(crate) kernel: String,
    pub(crate) release: String,
    pub(crate) filesystem: String,
    pub(crate) cells: Vec<Cell>,
    pub(crate) events: Vec<Event>,
    pub(crate) programs: Vec<Program>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) losses: Vec<Loss>,
    pub(crate) absent: Vec<Absent>,
}

/// Who watches when nobody does.
pub(crate) const NOBODY: &str = "nobody";

/// The same at the end, to see whether the machine is still what it was.
pub(crate) const AGAIN: &str = "nobody, again";

impl Measured {
    pub(crate) fn of(
        kernel: &str,
        release: &str,
        filesystem: Filesystem,
        lines: Vec<Line>,
    ) -> Result<Self> {
        let mut measured = Self {
            kernel: kernel.to_owned(),
            release: release.to_owned(),
            filesystem: filesystem.to_string(),
            cells: Vec::new(),
            events: Vec::new(),
            programs: Vec::new(),
            figures: Vec::new(),
            losses: Vec::new(),
            absent: Vec::new(),
        };
        for line in lines {
            match line {
                Line::Cell(cell) => measured.cells.push(cell),
                Line::Event(event) => measured.events.push(event),
                Line::Program(program) => measured.programs.push(program),
                Line::Figure(figure) => measured.figures.push(figure),
                Line::Loss(loss) => measured.losses.push(loss),
                Line::Absent(absent) => measured.absent.push(absent),
            }
        }
        if measured.cells.is_empty() {
            bail!("nothing was measured on {kernel}");
        }
        Ok(measured)
    }

    /// The instructions of one cell.
    pub(crate) fn instructions(&self, watcher: &str, operation: &str) -> Option<u64> {
        let cell = |cell: &&Cell| cell.watcher == watcher && cell.operation == operation;
        self.cells.iter().find(cell).map(|cell| cell.instructions)
    }

    /// What a watcher adds to an operation; negative if there is nothing but noise.
    pub(crate) fn added(&self, watcher: &str, operation: &str) -> Option<i64> {
        let count = self.instructions(watcher, operation)? as i64;
        Some(count - self.instructions(NOBODY, operation)? as i64)
    }

    /// What a watcher does in its own time.
    pub(crate) fn event(&self, watcher: &str) -> Option<&Event> {
        self.events.iter().find(|event| event.watcher == watcher)
    }

    /// The operations, in the order in which they were measured.
    pub(crate) fn operations(&self) -> Vec<&str> {
        distinct(self.cells.iter().map(|cell| cell.operation.as_str()))
    }

    /// The watchers, in the order in which they watched.
    pub(crate) fn watchers(&self) -> Vec<&str> {
        distinct(self.cells.iter().map(|cell| cell.watcher.as_str()))
    }

    /// A Markdown table: a row for each operation, a column for each watcher; what nobody's operation takes, and
    /// what a watcher adds to it.
    pub(crate) fn render(&self) -> String {
        let watchers: Vec<&str> = self
            .watchers()
            .into_iter()
            .filter(|watcher| *watcher != AGAIN)
            .collect();
        let mut text = self.table(&watchers, &self.operations());
        if !self.events.is_empty() {
            self.render_own(&mut text, &watchers, "for an event", |event| {
                event.per_event
            });
            let idle = "in a second without events";
            self.render_own(&mut text, &watchers, idle, |event| event.idle);
        }
        text
    }

    /// The same for these only.
    pub(crate) fn table(&self, watchers: &[&str], operations: &[&str]) -> String {
        let mut text = "| operation |".to_owned();
        for watcher in watchers {
            let _ = write!(text, " {watcher} |");
        }
        let _ = write!(text, "\n| --- |{}\n", " ---: |".repeat(watchers.len()));
        for operation in operations {
            let _ = write!(text, "| {operation} |");
            for watcher in watchers {
                let _ = write!(text, " {} |", self.shown(watcher, operation));
            }
            text.push('\n');
        }
        text
    }

    /// A row of what the watchers do in their own time.
    fn render_own(
        &self,
        text: &mut String,
        watchers: &[&str],
        what: &str,
        count: fn(&Event) -> u64,
    ) {
        let _ = write!(text, "| *the watcher's own, {what}* |");
        for watcher in watchers {
            let event = self.event(watcher);
            let event = event.map_or("-".to_owned(), |event| thousands(count(event)));
            let _ = write!(text, " {event} |");
        }
        text.push('\n');
    }

    fn shown(&self, watcher: &str, operation: &str) -> String {
        match (
            self.instructions(watcher, operation),
            self.added(watcher, operation),
        ) {
            (Some(count), _) if watcher == NOBODY => thousands(count),
            (_, Some(more)) => {
                let sign = if more < 0 { '-' } else { '+' };
                format!("{sign}{}", thousands(more.unsigned_abs()))
            }
            _ => "-".to_owned(),
        }
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

/// A number with a comma after every third digit.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What somebody's write takes.
    pub(crate) fn measured(counts: &[(&str, u64)]) -> Measured {
        let lines = counts.iter().map(|&(watcher, instructions)| {
            Line::Cell(Cell {
                watcher: watcher.to_owned(),
                operation: "write".to_owned(),
                instructions,
                least: 0,
                most: 0,
                samples: 1,
                exact: true,
            })
        });
        Measured::of("6.12", "6.12.0", Filesystem::Ext4, lines.collect()).unwrap()
    }

    #[test]
    fn a_watcher_is_shown_by_what_it_adds() {
        let table = measured(&[(NOBODY, 2603), ("premod", 2903), ("noise", 2600)]).render();
        assert!(table.contains("| write | 2,603 | +300 | -3 |\n"), "{table}");
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
