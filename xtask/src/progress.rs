//! One line on stderr per step: what is being done, dots while it lasts, how long it took.

use std::{
    fmt::Display,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

/// How often a dot shows that a step goes on.
const DOT: Duration = Duration::from_secs(5);

/// Runs `work` under a line such as `setup: kernel 6.12 ... 6.12.90 (4 s)`; `work` returns what
/// the line says at its end.
pub(crate) fn step<T>(what: impl Display, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
    eprint!("{what} ...");
    let start = Instant::now();
    let result = thread::scope(|scope| {
        // Dropped at the end of the work, which ends the dots.
        let (working, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(DOT) == Err(RecvTimeoutError::Timeout) {
                eprint!(".");
            }
        });
        let result = work();
        drop(working);
        result
    });
    match result {
        Ok((value, done)) => {
            eprintln!(" {done} ({:.0} s)", start.elapsed().as_secs_f32());
            Ok(value)
        }
        Err(error) => {
            eprintln!(" failed");
            Err(error)
        }
    }
}
