//! The keeper: continues what a premod that was killed has left stopped.

use bytes::Bytes;

use crate::{Error, events::Pid};

/// What became of processes that were left stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Processes that run again, with their names.
    pub continued: Vec<(Pid, Bytes)>,
    /// Processes that are still stopped, with their names and the reason.
    pub left: Vec<(Pid, Bytes, String)>,
}

/// Finds and continues processes that a premod which was killed has left stopped.
///
/// # Errors
/// Always, for now: nothing is written down yet by which they could be told from others.
pub fn recover() -> Result<Recovered, Error> {
    Err(Error::Kernel {
        context: "cannot recover".to_owned(),
        reason: "this premod cannot tell yet which processes were stopped by another; kill -CONT continues one"
            .to_owned(),
    })
}
