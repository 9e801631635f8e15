//! The processes that operate on the files.

use std::{
    path::Path,
    process::{Child, Command},
};

use crate::trace::wait;

/// How many there are.
pub(crate) const WORKERS: u8 = 8;

/// All of them.
pub(crate) struct Crew(Vec<Child>);

impl Crew {
    /// Starts them in the same role, each with random numbers of its own.
    pub(crate) fn start(role: &str, directory: &Path, seed: u64) -> Self {
        let start = |number: u8| {
            Command::new("/proc/self/exe")
                .arg(role)
                .arg(directory)
                .args([number.to_string(), (seed + u64::from(number)).to_string()])
                .spawn()
                .expect("a worker")
        };
        Self((0..WORKERS).map(start).collect())
    }

    pub(crate) fn process_ids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }

    /// Makes sure that none has ended yet.
    pub(crate) fn check(&mut self) {
        for worker in &mut self.0 {
            let ended = worker.try_wait().expect("a worker");
            assert!(ended.is_none(), "a worker ended: {ended:?}");
        }
    }

    /// Waits until they have ended, as the board has told them.
    pub(crate) fn finish(mut self) {
        for worker in &mut self.0 {
            let status = wait(worker);
            assert!(status.success(), "a worker ended with {status}");
        }
    }
}
