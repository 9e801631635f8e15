//! What `premod freeze` says while it freezes: lines of JSON for programs, sentences for people.

use std::future::pending;

use serde::Serialize;

use super::{
    OutputError,
    destination::Destination,
    json_line,
    writer::{self, Writer},
};
use crate::{
    events::{Clocks, MonotonicNs},
    freeze::report::{Held, SetReport, Violation},
};

/// A line about something that has happened.
#[derive(Serialize)]
struct Line<'a, T> {
    schema: u32,
    r#type: &'static str,
    /// If the body has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    mono_ns: MonotonicNs,
    #[serde(flatten)]
    body: &'a T,
}

/// Where JSON lines go, if they are wanted. Nobody waits for whoever reads them: others rely on the freeze.
#[derive(Default)]
pub(crate) struct Stream {
    to: Option<(Writer, String)>,
    /// Lines that found no room, or were given up.
    unwritten: u64,
}

impl Stream {
    /// Begins to write.
    ///
    /// # Errors
    /// If the file cannot be emptied, or there can be no thread that writes.
    pub(crate) fn begin(destination: Option<Destination>) -> Result<Self, OutputError> {
        let to = destination.map(Destination::begin).transpose()?;
        Ok(Self { to, unwritten: 0 })
    }

    /// The freeze as it is.
    pub(crate) fn report(&mut self, report: &SetReport) {
        self.write(&json_line(report));
    }

    /// A process was stopped (`held`), refused or killed.
    pub(crate) fn kept_out(&mut self, how: &'static str, who: &Held, mono: MonotonicNs) {
        let timestamp = format!("{:.9}", Clocks::now().date(mono));
        self.write(&line(how, Some(timestamp), mono, who));
    }

    /// A file was modified, or may have been.
    pub(crate) fn violated(&mut self, violation: &Violation, mono: MonotonicNs) {
        self.write(&line("violated", None, mono, violation));
    }

    fn write(&mut self, line: &[u8]) {
        match &self.to {
            Some((writer, _)) if writer.has_room() => writer.push(line),
            Some(_) => self.unwritten += 1,
            None => {}
        }
    }

    /// What writes the lines.
    pub(crate) fn writer(&self) -> Option<&Writer> {
        self.to.as_ref().map(|(writer, _)| writer)
    }

    /// Waits until nothing more can be written; why. Never returns a second time.
    pub(crate) async fn failed(&self) -> OutputError {
        let Some((writer, name)) = &self.to else {
            return pending().await;
        };
        while !writer.has_failed() {
            writer.stirred(true).await;
        }
        match writer.error() {
            Some(error) => writer::explained(error, name),
            None => pending().await,
        }
    }

    /// Gives up what is not written; how many lines were not in all.
    pub(crate) fn give_up(&mut self) -> u64 {
        if let Some((writer, _)) = &self.to {
            self.unwritten += writer.give_up();
        }
        self.unwritten
    }

    /// What it writes to, in a word.
    pub(crate) fn name(&self) -> &str {
        self.to.as_ref().map_or("", |(_, name)| name)
    }
}

fn line<T: Serialize>(
    r#type: &'static str,
    timestamp: Option<String>,
    mono_ns: MonotonicNs,
    body: &T,
) -> Vec<u8> {
    json_line(&Line {
        schema: SetReport::SCHEMA,
        r#type,
        timestamp,
        mono_ns,
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a key that is there twice some readers take the first, some the last, and some take neither.
    #[test]
    fn a_violation_has_one_time() {
        let violation = Violation {
            timestamp: Clocks::now().date(MonotonicNs(5)),
            path: None,
            op: None,
            pid: None,
            tid: None,
            comm: None,
            why: "it could not be prevented".to_owned(),
        };
        let line = String::from_utf8(line("violated", None, MonotonicNs(5), &violation)).unwrap();
        assert_eq!(line.matches("\"timestamp\":").count(), 1, "{line}");
        assert!(line.starts_with(r#"{"schema":"#), "{line}");
    }
}
