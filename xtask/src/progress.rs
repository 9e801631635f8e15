//! One line on stderr per step: what is being done while it lasts, how long it took afterwards.

use std::{fmt::Display, time::Instant};

use anyhow::Result;

/// Runs `work` under a line such as `setup: kernel 6.12 ... 6.12.90 (4 s)`; `work` returns what
/// the line says at its end.
pub(crate) fn step<T>(what: impl Display, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
    eprint!("{what} ... ");
    let start = Instant::now();
    match work() {
        Ok((value, done)) => {
            eprintln!("{done} ({} s)", start.elapsed().as_secs_f32().round());
            Ok(value)
        }
        Err(error) => {
            eprintln!("failed");
            Err(error)
        }
    }
}
