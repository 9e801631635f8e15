//! What `premod freeze` says while it freezes: lines of JSON for programs, sentences for people.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use serde::Serialize;

use super::{OutputError, json_line, printable};
use crate::{
    events::{Clocks, MonotonicNs},
    freeze::report::{Held, SetReport, Violation},
};

/// A line about something that has happened.
#[derive(Serialize)]
struct Line<'a, T> {
    schema: u32,
    r#type: &'static str,
    timestamp: String,
    mono_ns: MonotonicNs,
    #[serde(flatten)]
    body: &'a T,
}

/// Where JSON lines go, if they are wanted.
pub(crate) struct Stream(Option<(Box<dyn Write>, String)>);

impl Stream {
    /// Opens the file, or stdout if there is none.
    pub(crate) fn open(json: bool, path: Option<&Path>) -> Result<Self, OutputError> {
        Ok(Self(match (json, path) {
            (false, _) => None,
            (true, None) => Some((Box::new(io::stdout()), "stdout".to_owned())),
            (true, Some(path)) => {
                let name = printable(path.as_os_str().as_encoded_bytes());
                let file = File::create(path).map_err(|source| OutputError::Write {
                    to: name.clone(),
                    source,
                })?;
                Some((Box::new(file), name))
            }
        }))
    }

    /// The freeze as it is.
    pub(crate) fn report(&mut self, report: &SetReport) -> Result<(), OutputError> {
        self.write(&json_line(report))
    }

    /// A process was stopped (`held`), refused or killed.
    pub(crate) fn kept_out(
        &mut self,
        how: &'static str,
        who: &Held,
        mono: MonotonicNs,
    ) -> Result<(), OutputError> {
        self.line(how, who, mono)
    }

    /// A file was modified, or may have been.
    pub(crate) fn violated(
        &mut self,
        violation: &Violation,
        mono: MonotonicNs,
    ) -> Result<(), OutputError> {
        self.line("violated", violation, mono)
    }

    fn line<T: Serialize>(
        &mut self,
        r#type: &'static str,
        body: &T,
        mono: MonotonicNs,
    ) -> Result<(), OutputError> {
        let timestamp = format!("{:.9}", Clocks::now().date(mono));
        self.write(&json_line(&Line {
            schema: SetReport::SCHEMA,
            r#type,
            timestamp,
            mono_ns: mono,
            body,
        }))
    }

    fn write(&mut self, line: &[u8]) -> Result<(), OutputError> {
        let Some((to, name)) = &mut self.0 else {
            return Ok(());
        };
        let written = to.write_all(line).and_then(|()| to.flush());
        written.map_err(|source| match source.kind() {
            io::ErrorKind::BrokenPipe => OutputError::Closed,
            _ => OutputError::Write {
                to: name.clone(),
                source,
            },
        })
    }
}
