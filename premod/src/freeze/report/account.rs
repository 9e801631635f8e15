//! What a freeze says about itself: built from what the kernel side keeps and what has happened.

use std::{collections::HashSet, ffi::OsString, os::unix::ffi::OsStrExt};

use bytes::Bytes;
use jiff::Timestamp;
use premod_common::guard::{HeldProcess, Tally};

use super::{
    Argv, CommName, CommandReport, FileReport, Held, PathName, SetReport, SetType, State,
    Violation as Told, Violations,
};
use crate::{
    events::{Clocks, Device, MonotonicNs, Op, Pid, Tid},
    freeze::{
        Target,
        events::{Event, KeptOut, Violation, Why},
        gate::Gate,
        hold::keeper::name,
    },
};

/// The account of one freeze.
pub(in crate::freeze) struct Account {
    began: Timestamp,
    files: Vec<FileReport>,
    violations: Violations,
    command: Option<CommandReport>,
    /// What was said already of conditions that last.
    known: HashSet<(Why, Option<Bytes>)>,
}

impl Account {
    /// Begins an account of files that are about to be frozen.
    pub(in crate::freeze) fn begin(targets: &[Target]) -> Self {
        Self {
            began: Timestamp::now(),
            files: targets.iter().map(file).collect(),
            violations: Violations::default(),
            command: None,
            known: HashSet::new(),
        }
    }

    /// The paths of the files.
    pub(in crate::freeze) fn paths(&self) -> Vec<PathName> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }

    /// CMD runs.
    pub(in crate::freeze) fn command_is(&mut self, pid: u32, words: &[OsString]) {
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

    /// Whether anything has gone wrong so far.
    pub(in crate::freeze) fn is_violated(&self) -> bool {
        self.violations.count > 0
    }

    /// Takes note of what has happened; whether it is to be told. A condition that lasts is told once.
    pub(in crate::freeze) fn heed(&mut self, event: &Event) -> bool {
        let Event::Violated(violation) = event else {
            return true;
        };
        if violation.why.lasts() {
            let path = violation.path.as_ref().map(|path| path.0.clone());
            if !self.known.insert((violation.why, path)) {
                return false;
            }
        }
        self.violations.add(violation.into());
        true
    }

    /// How the freeze is now.
    pub(in crate::freeze) fn report(&self, gate: &Gate) -> SetReport {
        let now = Clocks::now().mono.0;
        let held = gate.held();
        let held = held
            .iter()
            .map(|(pid, held)| self.held_now(gate, *pid, held, now));
        let tally = gate.tally().unwrap_or_default();
        self.build(gate, &tally, held.collect(), now)
    }

    /// How it was when everybody had been let go.
    pub(in crate::freeze) fn conclude(&self, last: SetReport, tally: &Tally) -> SetReport {
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

    fn build(&self, gate: &Gate, tally: &Tally, held: Vec<Held>, now: u64) -> SetReport {
        let terms = gate.builder.terms();
        let frozen = gate.frozen;
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

    fn held_now(&self, gate: &Gate, pid: u32, held: &HeldProcess, now: u64) -> Held {
        let beforehand = held.inode == 0;
        let file = gate.inodes.iter().position(|&inode| inode == held.inode);
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

impl From<&KeptOut> for Held {
    fn from(kept: &KeptOut) -> Self {
        Self {
            pid: kept.task.pid,
            tid: kept.task.tid,
            comm: CommName(kept.task.comm.clone()),
            op: Some(kept.op),
            path: kept.path.clone(),
            for_ns: 0,
            stopped_by_others: false,
        }
    }
}

impl From<&Violation> for Told {
    fn from(violation: &Violation) -> Self {
        let task = violation.task.as_ref();
        Self {
            timestamp: violation.timestamp,
            path: violation.path.clone(),
            op: violation.op,
            pid: task.map(|task| task.pid),
            tid: task.map(|task| task.tid),
            comm: task.map(|task| CommName(task.comm.clone())),
            why: violation.why.describe().to_owned(),
        }
    }
}
