//! The verbs of the command line, one file each.

mod background;
mod child;
mod descriptors;
pub mod doctor;
mod drain;
pub mod freeze;
mod inherited;
mod names;
mod plan;
mod recover;
mod signals;
pub mod status;
pub mod thaw;
pub mod trace;
mod witness;

use std::io::{ErrorKind, Write};

pub use self::{
    child::Ending,
    names::{List, Names},
};

use crate::{
    Error,
    exit_code::{ExitCode, Failed},
    output::{OutputError, printable},
};

/// Writes what a command has to show to stdout, all at once.
fn show(text: &[u8]) -> Result<(), Failed> {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failed {
            code: ExitCode::Output,
            sentence: format!("cannot write stdout: {error}"),
        }),
        _ => Ok(()),
    }
}

/// Says what went wrong, when a command has more to do. It may quote names that anybody chose.
fn complain(error: &Error) -> ExitCode {
    say!("premod: {}", printable(error.to_string().as_bytes()));
    error.into()
}

/// Says that the output cannot be written, when a command has more to do.
fn complain_of(error: &OutputError) {
    say!("premod: {}", printable(error.to_string().as_bytes()));
}
