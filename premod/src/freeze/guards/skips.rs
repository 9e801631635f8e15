//! Programs that the kernel has skipped: while a task that it has preempted is inside of a fentry or tracepoint program,
//! it calls that program for nobody else on the same CPU.
//!
//! Those that matter hang twice, so that nothing is missed unless both were skipped. A kprobe hangs once: the kernel does
//! not preempt a task inside of it. It is watched all the same; and whether somebody switches kprobes off.

use std::{collections::HashMap, os::fd::OwnedFd};

use crate::{
    error::Error,
    kernel::{bpf::recursion_misses, environment::kprobes_are_off},
};

/// Programs that do the same, by name: something may have gone unseen if all were skipped.
const EQUAL: [&[&str]; 4] = [
    &["mkwrite_begins"],
    &["mkwrite_ends", "mkwrite_ends_again"],
    &["write_seen", "write_seen_again"],
    &["dirty_seen", "dirty_seen_again"],
];

/// What the kernel has skipped so far.
#[derive(Default)]
pub(super) struct Skips {
    watched: Vec<Vec<Watched>>,
    kprobes_were_off: bool,
}

struct Watched {
    program: OwnedFd,
    misses: u64,
}

impl Watched {
    fn new(programs: &mut HashMap<String, OwnedFd>, name: &str) -> Result<Self, Error> {
        let program = programs
            .remove(name)
            .ok_or_else(|| Error::BadValue(format!("there is no program {name}")))?;
        Ok(Self { program, misses: 0 })
    }

    fn now(&self) -> u64 {
        recursion_misses(&self.program).unwrap_or(self.misses)
    }
}

impl Skips {
    /// Watches those of these programs, and takes them.
    pub(super) fn of(programs: &mut HashMap<String, OwnedFd>) -> Result<Self, Error> {
        let mut watched =
            |equal: &&[&str]| (equal.iter().map(|name| Watched::new(programs, name))).collect();
        Ok(Self {
            watched: EQUAL.iter().map(&mut watched).collect::<Result<_, _>>()?,
            kprobes_were_off: false,
        })
    }

    /// Whether all programs that do the same were skipped since the last call, or are not called any more.
    pub(super) fn have_come(&mut self) -> bool {
        let off = kprobes_are_off();
        let mut come = off && !self.kprobes_were_off;
        self.kprobes_were_off = off;
        for equal in &mut self.watched {
            // A skip of one alone may belong to a skip of the other that is still to come.
            if equal.iter().all(|watched| watched.now() > watched.misses) {
                come = true;
                forget(equal);
            }
        }
        come
    }

    /// Forgets what was skipped up to now.
    pub(super) fn forget(&mut self) {
        self.watched.iter_mut().for_each(|equal| forget(equal));
    }
}

fn forget(equal: &mut [Watched]) {
    for watched in equal {
        watched.misses = watched.now();
    }
}
