//! Writing records: one writer, two forms.

mod filter;
pub(crate) mod freeze;
pub(crate) mod json;
mod line;
#[cfg(test)]
mod properties;
pub(crate) mod sets;
mod table;
mod text;

use std::{
    io::{self, Write},
    path::Path,
};

pub use filter::{Filter, globs};
pub use table::Columns;
#[cfg(test)]
pub(crate) use text::is_dangerous;
pub use text::printable;

use crate::{
    Summary,
    events::Record,
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

/// Why nothing more can be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The reader has gone: no failure.
    #[error("the reader has closed the pipe")]
    Closed,
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
            code: ExitCode::Output,
            sentence: error.to_string(),
        }
    }
}

/// Collects lines and writes them a batch at a time.
pub struct Output {
    to: Box<dyn Write>,
    name: String,
    form: Form,
    json: json::Records,
    buffer: Vec<u8>,
}

/// A batch is written when it has grown to this many bytes, or when there is nothing more to add.
const BATCH: usize = 64 << 10;

impl Output {
    /// Writes to `file`, or to stdout.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn open(file: Option<&Path>, form: Form) -> Result<Self, OutputError> {
        let (to, name): (Box<dyn Write>, _) = match file {
            None => (Box::new(io::stdout().lock()), "stdout".to_owned()),
            Some(path) => {
                let name = path.display().to_string();
                let file = std::fs::File::create(path).map_err(|source| OutputError::Write {
                    to: name.clone(),
                    source,
                })?;
                (Box::new(file), name)
            }
        };
        Ok(Self {
            to,
            name,
            form,
            json: json::Records::default(),
            buffer: Vec::with_capacity(BATCH + 4096),
        })
    }

    /// Writes what comes before the first record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(&mut self) -> Result<(), OutputError> {
        if let Form::Table(columns) = self.form {
            table::header(&mut self.buffer, columns);
        }
        self.flush()
    }

    /// Adds a record. Losses stand in the table's place on stderr, because it has no column for them.
    ///
    /// # Errors
    /// If a full batch cannot be written.
    pub fn record(&mut self, record: &Record) -> Result<(), OutputError> {
        match (self.form, record) {
            (Form::Json, record) => self.json.record(&mut self.buffer, record),
            (Form::Table(columns), Record::FirstDirty(event)) => {
                table::event(&mut self.buffer, event, columns);
            }
            (Form::Table(_), Record::Lost(lost)) => {
                self.flush()?;
                crate::say!(
                    "premod: {} events lost: {}",
                    lost.count,
                    lost.reason.describe()
                );
            }
        }
        if self.buffer.len() >= BATCH {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Ends the stream: the JSON form says what happened in all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(&mut self, summary: &Summary) -> Result<(), OutputError> {
        if self.form == Form::Json {
            json::summary(&mut self.buffer, summary);
        }
        self.flush()
    }

    /// Writes what has been collected.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> Result<(), OutputError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self
            .to
            .write_all(&self.buffer)
            .and_then(|()| self.to.flush());
        self.buffer.clear();
        written.map_err(|source| {
            if source.kind() == io::ErrorKind::BrokenPipe {
                OutputError::Closed
            } else {
                OutputError::Write {
                    to: self.name.clone(),
                    source,
                }
            }
        })
    }
}
