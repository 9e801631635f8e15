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
}

/// What it costs the watcher to be told of one file, its system calls included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    pub(crate) watcher: String,
    pub(crate) per_event: u64,
}

/// A watcher that does not run here, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Absent {
    pub(crate) watcher: String,
    pub(crate) absent: String,
}

/// Everything that was measured on one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measured {
    /// The kernel's series.
    pub(crate) kernel: String,
    pub(crate) release: String,
    pub(crate) filesystem: String,
    pub(crate) cells: Vec<Cell>,
    pub(crate) events: Vec<Event>,
    pub(crate) absent: Vec<Absent>,
}

/// Who watches when nobody does.
pub(crate) const NOBODY: &str = "nobody";

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
            absent: Vec::new(),
        };
        for line in lines {
            match line {
                Line::Cell(cell) => measured.cells.push(cell),
                Line::Event(event) => measured.events.push(event),
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

    /// The operations, in the order in which they were measured.
    pub(crate) fn operations(&self) -> Vec<&str> {
        distinct(self.cells.iter().map(|cell| cell.operation.as_str()))
    }

    /// The watchers, in the order in which they watched.
    pub(crate) fn watchers(&self) -> Vec<&str> {
        distinct(self.cells.iter().map(|cell| cell.watcher.as_str()))
    }

    /// A Markdown table: a row for each watcher, a column for each operation; what nobody's operation takes, and
    /// what a watcher adds to it.
    pub(crate) fn render(&self) -> String {
        let operations = self.operations();
        let mut text = format!(
            "\n### {} ({}, {})\n\n| watcher |",
            self.kernel, self.release, self.filesystem
        );
        for operation in &operations {
            let _ = write!(text, " {operation} |");
        }
        text.push_str(" an event costs the watcher |");
        let _ = write!(
            text,
            "\n| --- |{}\n",
            " ---: |".repeat(operations.len() + 1)
        );
        for watcher in self.watchers() {
            let _ = write!(text, "| {watcher} |");
            for operation in &operations {
                let _ = write!(text, " {} |", self.shown(watcher, operation));
            }
            let event = self.events.iter().find(|event| event.watcher == watcher);
            let event = event.map_or("-".to_owned(), |event| thousands(event.per_event));
            let _ = writeln!(text, " {event} |");
        }
        for absent in &self.absent {
            let _ = writeln!(text, "\n{}: {}", absent.watcher, absent.absent);
        }
        text
    }

    fn shown(&self, watcher: &str, operation: &str) -> String {
        let bare = self.instructions(NOBODY, operation);
        match (self.instructions(watcher, operation), bare) {
            (None, _) => "-".to_owned(),
            (Some(count), Some(bare)) if watcher != NOBODY => {
                let more = count as i64 - bare as i64;
                let sign = if more < 0 { '-' } else { '+' };
                format!("{sign}{}", thousands(more.unsigned_abs()))
            }
            (Some(count), _) => thousands(count),
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
mod tests {
    use super::*;

    fn measured(counts: &[(&str, u64)]) -> Measured {
        let lines = counts.iter().map(|&(watcher, instructions)| {
            Line::Cell(Cell {
                watcher: watcher.to_owned(),
                operation: "write".to_owned(),
                instructions,
                least: 0,
                most: 0,
                samples: 1,
            })
        });
        Measured::of("6.12", "6.12.0", Filesystem::Ext4, lines.collect()).unwrap()
    }

    #[test]
    fn a_watcher_is_shown_by_what_it_adds() {
        let table = measured(&[(NOBODY, 2603), ("premod", 2903), ("noise", 2600)]).render();
        assert!(table.contains("| nobody | 2,603 | - |\n"), "{table}");
        assert!(table.contains("| premod | +300 | - |\n"), "{table}");
        assert!(table.contains("| noise | -3 | - |\n"), "{table}");
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
