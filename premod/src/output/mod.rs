//! Writing records: one writer, two forms.

pub(crate) mod destination;
mod exclude;
mod filter;
pub(crate) mod freeze;
pub(crate) mod json;
mod line;
#[cfg(test)]
mod properties;
mod reader;
pub(crate) mod sets;
pub mod stderr;
mod table;
mod text;
pub(crate) mod writer;

use std::{io, path::PathBuf};

pub use exclude::Exclude;
pub use filter::{Cgroup, Filter};
pub use table::Columns;
#[cfg(test)]
pub(crate) use text::is_dangerous;
pub use text::printable;

use self::{destination::Destination, reader::Reader, writer::Writer};
use crate::{
    Summary,
    events::{PathChanged, Record},
    exit_code::{ExitCode, Failed},
};

/// How records look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line of columns per event, for people.
    Table(Columns),
    /// A JSON object per line.
    Json,
}

/// One line of JSON that can be shown on a terminal.
pub(crate) fn json_line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut line = Vec::new();
    json::write_line(&mut line, value);
    line
}

/// Why nothing can be written, or nothing more.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The reader has gone: no failure.
    #[error("the reader has closed the pipe")]
    Closed,
    /// It is one of the files that the command is about.
    #[error(
        "cannot write to {to}: it is {}, which this command reads or is about; write to another one",
        path.display()
    )]
    IsInput {
        /// Where to.
        to: String,
        /// The same, as it was given to the command.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot write {to}: {source}")]
    Write {
        /// Where to.
        to: String,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl From<OutputError> for Failed {
    fn from(error: OutputError) -> Self {
        Self {
            code: match error {
                OutputError::IsInput { .. } => ExitCode::Usage,
                _ => ExitCode::Output,
            },
            sentence: error.to_string(),
        }
    }
}

fn in_words(change: PathChanged) -> &'static str {
    match change {
        PathChanged::Gone => "is gone; waiting for it",
        PathChanged::Replaced => "was replaced: another file or directory has its name now",
        PathChanged::Back => "is there now",
    }
}

/// Collects the lines of a trace and hands them over a batch at a time.
pub struct Output {
    writer: Writer,
    reader: Reader,
    name: String,
    form: Form,
    json: json::Records,
    buffer: Vec<u8>,
    /// Lines that were given up.
    unwritten: Option<u64>,
}

/// A batch is handed over when it has grown to this many bytes, or when there is nothing more to add.
const BATCH: usize = 64 << 10;

impl Output {
    /// Begins with what comes before the first record.
    ///
    /// # Errors
    /// If the file cannot be emptied, or there can be no thread that writes.
    pub(crate) fn begin(destination: Destination, form: Form) -> Result<Self, OutputError> {
        let reader = destination.reader()?;
        let (writer, name) = destination.begin()?;
        let mut output = Self {
            writer,
            reader,
            name,
            form,
            json: json::Records::default(),
            buffer: Vec::with_capacity(BATCH + 4096),
            unwritten: None,
        };
        if let Form::Table(columns) = form {
            table::header(&mut output.buffer, columns);
        }
        output.flush();
        Ok(output)
    }

    /// Adds a record. Losses and changes of PATHs stand in the table's place on stderr, because it has no column for them.
    pub fn record(&mut self, record: &Record) {
        if let Some(unwritten) = &mut self.unwritten {
            *unwritten += 1;
            return;
        }
        match (self.form, record) {
            (Form::Json, record) => self.json.record(&mut self.buffer, record),
            (Form::Table(columns), Record::FirstDirty(event)) => {
                table::event(&mut self.buffer, event, columns);
            }
            (Form::Table(_), Record::Lost(lost)) => {
                self.flush();
                crate::say!(
                    "premod: {} events lost: {}",
                    lost.count,
                    lost.reason.describe()
                );
            }
            (Form::Table(_), Record::Path(change)) => {
                self.flush();
                let path = printable(change.path.as_os_str().as_encoded_bytes());
                crate::say!("premod: {path} {}", in_words(change.change));
            }
        }
        if self.buffer.len() >= BATCH {
            self.flush();
        }
    }

    /// Ends the stream: the JSON form says what happened in all.
    pub fn finish(&mut self, summary: &Summary) {
        match (self.form, &mut self.unwritten) {
            (Form::Json, Some(unwritten)) => *unwritten += 1,
            (Form::Json, None) => json::summary(&mut self.buffer, summary),
            _ => {}
        }
        self.flush();
    }

    /// Hands over what has been collected.
    pub fn flush(&mut self) {
        self.writer.push(&self.buffer);
        self.buffer.clear();
    }

    /// What writes it.
    pub(crate) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Waits until nobody reads it any more.
    pub(crate) async fn deserted(&self) {
        self.reader.gone().await;
    }

    /// Gives up what is not written, and whatever is still added.
    pub(crate) fn give_up(&mut self) {
        self.flush();
        *self.unwritten.get_or_insert(0) += self.writer.give_up();
    }

    /// How many lines were given up.
    #[must_use]
    pub fn unwritten(&self) -> u64 {
        self.unwritten.unwrap_or(0)
    }

    /// Why nothing more can be written, once.
    pub(crate) fn error(&self) -> Option<OutputError> {
        Some(writer::explained(self.writer.error()?, &self.name))
    }

    /// What it writes to, in a word.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}
