//! Turns what the kernel side tells and counts into events.

use std::{collections::VecDeque, time::Duration};

use premod_common::{
    guard::{GuardRecord, Happening, Tally},
    inode::InodeAddress,
};

use super::{Event, How, KeptOut, Task, Violation, Why};
use crate::{
    events::{Clocks, MonotonicNs, Op, Pid, Tid},
    freeze::{hold::keeper::name, report::PathName},
};

/// A program that hangs twice tells twice, within this time.
const TWICE: Duration = Duration::from_millis(5);

/// Knows what was told before.
pub(in crate::freeze) struct Decoder {
    /// The kernel's addresses of the files, by which records name them.
    inodes: Vec<InodeAddress>,
    paths: Vec<PathName>,
    /// Since when the files are frozen, if they are: what was before is of no importance.
    since: Option<MonotonicNs>,
    last: Option<GuardRecord>,
    told_twice: bool,
    /// Counted modifications that were told, or given up.
    touches: u64,
    /// Counted changes of names that were told, or are of no importance.
    renamed: u64,
}

impl Decoder {
    pub(in crate::freeze) fn new(inodes: Vec<InodeAddress>, paths: Vec<PathName>) -> Self {
        Self {
            inodes,
            paths,
            since: None,
            last: None,
            told_twice: false,
            touches: 0,
            renamed: 0,
        }
    }

    /// The files are frozen; what had been counted up to then.
    pub(in crate::freeze) fn begin(&mut self, since: MonotonicNs, counted: &Tally) {
        self.since = Some(since);
        self.touches = counted.touches;
        self.renamed = counted.renamed;
    }

    /// Adds what a record means, which may be nothing. `behind` are the files behind the dentry of a
    /// [`Happening::Renamed`], by their numbers.
    pub(super) fn decode(
        &mut self,
        record: &GuardRecord,
        behind: &[usize],
        found: &mut VecDeque<Event>,
    ) {
        let (Some(since), Some(happening)) = (self.since, Happening::from_number(record.happening))
        else {
            return;
        };
        let how = match happening {
            Happening::Held => How::Held,
            Happening::Refused => How::Refused,
            Happening::Killed => How::Killed,
            // What was before the files were frozen was counted when they were.
            _ if record.mono_ns < since.0 => return,
            Happening::Renamed => {
                self.renamed += 1;
                let violations = behind.iter().map(|&file| Violation {
                    path: Some(self.paths[file].clone()),
                    op: None,
                    ..self.seen(Why::Replaced, record)
                });
                found.extend(violations.map(Event::Violated));
                return;
            }
            Happening::Touched | Happening::Stored => {
                self.touches += 1;
                if !self.is_told_twice(record) {
                    let why = match happening {
                        Happening::Stored => Why::Stored,
                        _ => Why::Modified,
                    };
                    found.push_back(Event::Violated(self.seen(why, record)));
                }
                return;
            }
        };
        found.push_back(Event::KeptOut(KeptOut {
            how,
            mono: MonotonicNs(record.mono_ns),
            task: task(record),
            op: op(record),
            path: self.path(record.inode),
        }));
    }

    fn seen(&self, why: Why, record: &GuardRecord) -> Violation {
        let mono = MonotonicNs(record.mono_ns);
        Violation {
            why,
            timestamp: Clocks::now().date(mono),
            mono,
            path: self.path(record.inode),
            op: Some(op(record)),
            task: Some(task(record)),
        }
    }

    /// A violation that nobody has told of.
    pub(in crate::freeze) fn noticed(&self, why: Why, file: Option<usize>) -> Violation {
        let Clocks { real, mono } = Clocks::now();
        Violation {
            why,
            timestamp: real,
            mono,
            path: file.map(|file| self.paths[file].clone()),
            op: None,
            task: None,
        }
    }

    /// Whether something was counted of which nothing was told, since the record was lost. Everything that was told has to
    /// be decoded by now.
    pub(in crate::freeze) fn has_lost(&mut self, tally: &Tally) -> bool {
        let lost = tally.lost > 0 && (tally.touches > self.touches || tally.renamed > self.renamed);
        if lost {
            self.touches = tally.touches;
            self.renamed = tally.renamed;
        }
        lost
    }

    fn path(&self, inode: InodeAddress) -> Option<PathName> {
        let number = self.inodes.iter().position(|&it| it == inode)?;
        self.paths.get(number).cloned()
    }

    /// What a program sees that hangs twice is told twice.
    fn is_told_twice(&mut self, record: &GuardRecord) -> bool {
        let twice = !self.told_twice
            && self.last.as_ref().is_some_and(|last| {
                (last.tid, last.inode, last.happening, last.op)
                    == (record.tid, record.inode, record.happening, record.op)
                    && record.mono_ns.wrapping_sub(last.mono_ns) < TWICE.as_nanos() as u64
            });
        self.told_twice = twice;
        self.last = Some(*record);
        twice
    }
}

fn task(record: &GuardRecord) -> Task {
    Task {
        pid: Pid(record.pid),
        tid: Tid(record.tid),
        comm: name(&record.comm),
    }
}

fn op(record: &GuardRecord) -> Op {
    let number = u8::try_from(record.op).ok();
    number.and_then(Op::from_number).unwrap_or(Op::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE: u64 = 1_000_000_000;
    const ONE: InodeAddress = 0xa1;
    const OTHER: InodeAddress = 0xa2;

    fn decoder() -> Decoder {
        let paths = ["/srv/one", "/srv/other"].map(|path| PathName(path.into()));
        let mut decoder = Decoder::new(vec![ONE, OTHER], paths.to_vec());
        let counted = Tally {
            touches: 3,
            renamed: 1,
            ..Tally::default()
        };
        decoder.begin(MonotonicNs(SINCE), &counted);
        decoder
    }

    fn record(happening: Happening, mono_ns: u64) -> GuardRecord {
        GuardRecord {
            mono_ns,
            inode: OTHER,
            happening: happening as u32,
            op: Op::Mmap as u32,
            pid: 7,
            tid: 8,
            comm: *b"writer\0\0\0\0\0\0\0\0\0\0",
            ..GuardRecord::default()
        }
    }

    fn decoded(decoder: &mut Decoder, record: &GuardRecord, behind: &[usize]) -> Vec<Event> {
        let mut found = VecDeque::new();
        decoder.decode(record, behind, &mut found);
        found.into()
    }

    /// Why, and which file, of each violation; whoever was kept out is none.
    fn violations(events: &[Event]) -> Vec<(Why, &str)> {
        let violation = |event: &Event| match event {
            Event::Violated(it) => Some(it.clone()),
            _ => None,
        };
        let all = events.iter().filter_map(violation);
        all.map(|it| match it.path {
            Some(path) if path.0 == "/srv/one" => (it.why, "one"),
            Some(_) => (it.why, "other"),
            None => (it.why, ""),
        })
        .collect()
    }

    #[test]
    fn who_was_kept_out_is_told_with_file_and_name() {
        let mut decoder = decoder();
        // Also of the time in which the files became frozen.
        let events = decoded(&mut decoder, &record(Happening::Held, SINCE - 1), &[]);
        let kept = KeptOut {
            how: How::Held,
            mono: MonotonicNs(SINCE - 1),
            task: Task {
                pid: Pid(7),
                tid: Tid(8),
                comm: "writer".into(),
            },
            op: Op::Mmap,
            path: Some(PathName("/srv/other".into())),
        };
        assert_eq!(events, [Event::KeptOut(kept)]);
        let elsewhere = GuardRecord {
            inode: 0,
            op: 999,
            ..record(Happening::Refused, SINCE)
        };
        match &decoded(&mut decoder, &elsewhere, &[])[..] {
            [Event::KeptOut(it)] => assert_eq!((it.op, &it.path), (Op::Unknown, &None)),
            events => panic!("{events:?}"),
        }
    }

    #[test]
    fn what_was_before_the_files_were_frozen_is_no_violation() {
        let mut decoder = decoder();
        for happening in [Happening::Touched, Happening::Stored, Happening::Renamed] {
            let early = record(happening, SINCE - 1);
            assert_eq!(decoded(&mut decoder, &early, &[0]), []);
            let late = record(happening, SINCE);
            assert_eq!(decoded(&mut decoder, &late, &[0]).len(), 1);
        }
        let mut open = Decoder::new(vec![OTHER], vec![PathName::default()]);
        let touched = record(Happening::Touched, SINCE);
        assert_eq!(decoded(&mut open, &touched, &[]), []);
    }

    #[test]
    fn a_name_violates_each_file_behind_it() {
        let renamed = record(Happening::Renamed, SINCE);
        let events = decoded(&mut decoder(), &renamed, &[0, 1]);
        assert_eq!(
            violations(&events),
            [(Why::Replaced, "one"), (Why::Replaced, "other")]
        );
        assert_eq!(decoded(&mut decoder(), &renamed, &[]), []);
    }

    #[test]
    fn what_two_programs_see_is_told_once_and_what_happens_twice_is_told_twice() {
        let mut decoder = decoder();
        let mut at = |mono| decoded(&mut decoder, &record(Happening::Stored, mono), &[]).len();
        let again = SINCE + 1_000;
        assert_eq!(
            [at(SINCE), at(again), at(again + 1), at(again + 2)],
            [1, 0, 1, 0]
        );
        let later = again + TWICE.as_nanos() as u64 + 2;
        assert_eq!(at(later), 1);
    }

    #[test]
    fn what_was_counted_and_not_told_is_lost() {
        let mut decoder = decoder();
        let tally = |touches, lost| Tally {
            touches,
            lost,
            renamed: 1,
            ..Tally::default()
        };
        assert!(
            !decoder.has_lost(&tally(3, 1)),
            "what was lost was not counted"
        );
        decoded(&mut decoder, &record(Happening::Touched, SINCE), &[]);
        assert!(!decoder.has_lost(&tally(4, 1)), "it was told");
        assert!(!decoder.has_lost(&tally(5, 0)), "it will be told");
        assert!(decoder.has_lost(&tally(5, 1)));
        assert!(!decoder.has_lost(&tally(5, 1)), "it is told once");
        let renamed = Tally {
            renamed: 2,
            ..tally(5, 2)
        };
        assert!(decoder.has_lost(&renamed));
    }
}
