//! What a freeze says about itself: built from what the kernel side keeps and what has happened.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use bytes::Bytes;
use jiff::Timestamp;
use premod_common::guard::{GuardRecord, HeldProcess, Tally};

use super::{
    Argv, CommName, CommandReport, FileReport, Held, PathName, SetReport, SetType, State,
    Violation as Told, Violations,
};
use crate::{
    events::{Clocks, Device, MonotonicNs, Op, Pid, Tid},
    freeze::{
        Freezer, Target,
        happened::{Violation, Why},
        hold::keeper::name,
    },
};

/// The account of one freeze.
pub struct Account {
    began: Timestamp,
    files: Vec<FileReport>,
    inodes: Vec<u64>,
    violations: Violations,
    command: Option<CommandReport>,
    /// What was said already: a condition that lasts is told once.
    known: Vec<(Why, Option<usize>)>,
}

impl Account {
    /// Begins an account of files that are about to be frozen.
    #[must_use]
    pub fn begin(targets: &[Target]) -> Self {
        Self {
            began: Timestamp::now(),
            files: targets.iter().map(file).collect(),
            inodes: Vec::new(),
            violations: Violations::default(),
            command: None,
            known: Vec::new(),
        }
    }

    /// The kernel's addresses of the files, by which it names them.
    pub fn inodes_are(&mut self, inodes: &[u64]) {
        self.inodes = inodes.to_vec();
    }

    /// CMD runs.
    pub fn command_is(&mut self, pid: u32, words: &[OsString]) {
        let words = words.iter();
        self.command = Some(CommandReport {
            pid: Pid(pid),
            argv: Argv(
                words
                    .map(|word| Bytes::copy_from_slice(word.as_bytes()))
                    .collect(),
            ),
        });
    }

    /// Whether a CMD relies on the freeze.
    #[must_use]
    pub fn has_command(&self) -> bool {
        self.command.is_some()
    }

    /// Whether anything has gone wrong so far.
    #[must_use]
    pub fn is_violated(&self) -> bool {
        self.violations.count > 0
    }

    /// Adds a violation, and returns it in the form in which it is told; `None` if it was told before.
    pub fn violated(&mut self, violation: &Violation) -> Option<Told> {
        let replaced = violation.why == Why::Replaced;
        let lasts = violation.record.is_none() || replaced;
        if lasts && self.known.contains(&(violation.why, violation.file)) {
            return None;
        }
        self.known.push((violation.why, violation.file));
        let record = violation.record.as_ref();
        let told = Told {
            timestamp: Clocks::now().date(violation.mono),
            path: violation.file.map(|file| self.files[file].path.clone()),
            op: record
                .filter(|_| !replaced)
                .map(|record| Freezer::op(record.op)),
            pid: record.map(|record| Pid(record.pid)),
            tid: record.map(|record| Tid(record.tid)),
            comm: record.map(|record| comm(&record.comm)),
            why: violation.why.describe().to_owned(),
        };
        self.violations.add(told.clone());
        Some(told)
    }

    /// A process that was stopped, as it is told when that happens.
    #[must_use]
    pub fn held(&self, record: &GuardRecord, file: Option<usize>) -> Held {
        Held {
            pid: Pid(record.pid),
            tid: Tid(record.tid),
            comm: comm(&record.comm),
            op: Some(Freezer::op(record.op)),
            path: file.map(|file| self.files[file].path.clone()),
            for_ns: 0,
            stopped_by_others: false,
        }
    }

    /// How the freeze is now.
    #[must_use]
    pub fn report(&self, freezer: &Freezer) -> SetReport {
        let now = Clocks::now().mono.0;
        let held = freezer.held();
        let held = held
            .iter()
            .map(|(pid, held)| self.held_now(*pid, held, now));
        let tally = freezer.tally().unwrap_or_default();
        self.build(freezer, &tally, held.collect(), now)
    }

    /// How it was when everybody had been let go.
    #[must_use]
    pub fn conclude(&self, last: SetReport, tally: &Tally) -> SetReport {
        SetReport {
            state: State::Thawed,
            remaining_ns: 0,
            held: Vec::new(),
            refused: tally.refused,
            killed: tally.killed,
            violations: self.violations.clone(),
            ..last
        }
    }

    fn build(&self, freezer: &Freezer, tally: &Tally, held: Vec<Held>, now: u64) -> SetReport {
        let terms = freezer.terms();
        let frozen = freezer.frozen();
        let deadline = frozen.map_or(0, |frozen| frozen.deadline.0);
        SetReport {
            schema: SetReport::SCHEMA,
            r#type: SetType::Freeze,
            pid: Pid(std::process::id()),
            state: if frozen.is_some() {
                State::Frozen
            } else {
                State::Freezing
            },
            mode: terms.mode,
            errno: terms.errno.map(|errno| errno.to_string()),
            mmap: terms.mmap,
            began: self.began,
            deadline_mono_ns: MonotonicNs(deadline),
            remaining_ns: deadline.saturating_sub(now),
            took_ns: frozen.map(|frozen| frozen.since.0 - frozen.closed.0),
            generation: frozen.map(|frozen| frozen.rounds),
            files: self.files.clone(),
            held,
            refused: tally.refused,
            killed: tally.killed,
            violations: self.violations.clone(),
            command: self.command.clone(),
        }
    }

    fn held_now(&self, pid: u32, held: &HeldProcess, now: u64) -> Held {
        let beforehand = held.inode == 0;
        let file = self.inodes.iter().position(|&inode| inode == held.inode);
        Held {
            pid: Pid(pid),
            tid: Tid(held.tid),
            comm: comm(&held.comm),
            op: (!beforehand).then(|| Op::from_number(held.op).unwrap_or(Op::Unknown)),
            path: file.map(|file| self.files[file].path.clone()),
            for_ns: now.saturating_sub(held.since),
            stopped_by_others: i32::from(held.stopped_by_others) == libc::SIGSTOP,
        }
    }
}

fn comm(padded: &[u8; 16]) -> CommName {
    CommName(name(padded))
}

fn file(target: &Target) -> FileReport {
    let (device, inode) = target.id;
    FileReport {
        path: PathName(Bytes::copy_from_slice(target.path.as_os_str().as_bytes())),
        device: Device {
            major: rustix::fs::major(device),
            minor: rustix::fs::minor(device),
        },
        inode,
        generation: None,
    }
}
