//! Says whether every change of a clean period was announced. Knows nothing of processes or files: it is
//! told what was observed. Its own tests are in judge_tests.rs.

use std::collections::HashMap;

/// A loss within this time after a period may be one of the period's: premod looks for skipped programs
/// every half second, and the soak asks it about every second.
const LOSS_NOTICED: u64 = 3_000_000_000;

/// A file, as both premod and the soak can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    pub(crate) filesystem: usize,
    pub(crate) inode: u64,
    pub(crate) generation: u32,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) size: u64,
    pub(crate) hash: u64,
}

/// A first-dirty event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) mono_ns: u64,
    pub(crate) pre: bool,
    pub(crate) generation: u64,
    pub(crate) untracked: bool,
    pub(crate) op: String,
    pub(crate) pid: u64,
    /// The last component of the path; `None` if premod says that the file has no name any more.
    pub(crate) name: Option<String>,
}

/// A time in which a file was observed: at `from` it was clean, and nobody touched it at either end.
#[derive(Clone, Debug)]
pub(crate) struct Period<L> {
    pub(crate) file: FileId,
    /// How the file's name begins.
    pub(crate) prefix: String,
    /// When the check began that the period begins with. A sync that premod does not see at that time
    /// hides the changes after it.
    pub(crate) check: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) before: Content,
    pub(crate) after: Content,
    /// When the first modification was complete, if there was any.
    pub(crate) first_change: Option<u64>,
    /// Modifications completed.
    pub(crate) changes: u64,
    /// Nobody wrote the file's pages back in the meantime.
    pub(crate) undisturbed: bool,
    /// What was done, for the report.
    pub(crate) log: L,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The content differs, and there is no event.
    Unannounced,
    /// A modification was completed, and there is no event; the content happens to be the same.
    Silent,
    /// The event says that it came before the modification, but the modification was complete before it.
    After,
    /// Nothing had been written back, and there was an event after the first modification was complete.
    Repeated,
    /// The event names another file.
    WrongName,
    /// A generation's number is missing in the stream.
    Gap,
    /// A generation was announced twice.
    Twice,
}

/// Something wrong with one period, or with the stream.
#[derive(Clone, Debug)]
pub(crate) struct Fault<L> {
    pub(crate) reason: Reason,
    pub(crate) file: FileId,
    /// The time in question, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) at: (u64, u64),
    pub(crate) period: Option<Period<L>>,
    pub(crate) events: Vec<Event>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// Periods compared.
    pub(crate) periods: u64,
    /// Of these: the content had changed.
    pub(crate) changed: u64,
    /// Of these: somebody completed a modification, and the content is the same.
    pub(crate) same: u64,
    /// Of these: an event came before the first modification was complete.
    pub(crate) before: u64,
    /// Of these: the first event says that it is late.
    pub(crate) late: u64,
    /// Of these: there was an event, and nobody says that he modified anything.
    pub(crate) false_alarms: u64,
    /// Of these: nobody wrote anything back, and somebody modified.
    pub(crate) undisturbed: u64,
    /// Further events of these, before the first modification was complete.
    pub(crate) together: u64,
    /// Modifications in all of them.
    pub(crate) modifications: u64,
    /// First-dirty events of all files.
    pub(crate) events: u64,
    /// Second and further events of a period.
    pub(crate) repeated: u64,
    /// Late ones among these.
    pub(crate) repeated_late: u64,
    /// Events between two periods, while nobody but the checker used the file.
    pub(crate) between: u64,
    /// Events before a file's first period, and of files that never had one.
    pub(crate) unobserved: u64,
}

/// What has been heard and found so far.
pub(crate) struct Judge<L> {
    pub(crate) numbers: Numbers,
    pub(crate) faults: Vec<Fault<L>>,
    /// Losses that premod has reported: when they were noticed, and where.
    losses: Vec<(u64, String)>,
    events: HashMap<FileId, Vec<Event>>,
    generations: HashMap<FileId, u64>,
    /// When a file's last period ended.
    ends: HashMap<FileId, u64>,
}

impl<L: Clone> Judge<L> {
    pub(crate) fn new() -> Self {
        Self {
            numbers: Numbers::default(),
            faults: Vec::new(),
            losses: Vec::new(),
            events: HashMap::new(),
            generations: HashMap::new(),
            ends: HashMap::new(),
        }
    }

    /// Takes an event, in the stream's order.
    pub(crate) fn hear(&mut self, file: FileId, event: Event) {
        self.numbers.events += 1;
        self.numbers.unobserved += 1;
        if !event.untracked {
            let last = self.generations.insert(file, event.generation).unwrap_or(0);
            // An inode that was evicted begins again at 1.
            let reason = if event.generation == last + 1 || event.generation == 1 {
                None
            } else if event.generation == last {
                Some(Reason::Twice)
            } else {
                Some(Reason::Gap)
            };
            if let Some(reason) = reason {
                self.faults.push(Fault {
                    reason,
                    file,
                    at: (event.mono_ns, event.mono_ns),
                    period: None,
                    events: vec![event.clone()],
                });
            }
        }
        self.events.entry(file).or_default().push(event);
    }

    /// Takes note that premod says that events may be missing.
    pub(crate) fn lose(&mut self, noticed: u64, place: &str) {
        self.losses.push((noticed, place.to_owned()));
    }

    /// Judges a period. All events of that time have been heard, and a file's periods come in their order.
    /// Returns the period's events.
    pub(crate) fn judge(&mut self, period: &Period<L>) -> Vec<Event> {
        let heard = self.events.remove(&period.file).unwrap_or_default();
        let (old, later): (Vec<Event>, Vec<Event>) = heard
            .into_iter()
            .partition(|event| event.mono_ns < period.to);
        let (mut events, between): (Vec<Event>, Vec<Event>) = old
            .into_iter()
            .partition(|event| event.mono_ns > period.from);
        self.events.insert(period.file, later);
        events.sort_by_key(|event| event.mono_ns);
        let changed = period.before != period.after;
        let modified = changed || period.first_change.is_some();
        let numbers = &mut self.numbers;
        let last = self.ends.insert(period.file, period.to).unwrap_or(u64::MAX);
        let between = between.iter().filter(|event| event.mono_ns > last).count();
        numbers.between += between as u64;
        numbers.unobserved -= (between + events.len()) as u64;
        numbers.periods += 1;
        numbers.changed += u64::from(changed);
        numbers.same += u64::from(!changed && modified);
        numbers.modifications += period.changes;
        numbers.undisturbed += u64::from(period.undisturbed && modified);
        numbers.repeated += (events.len() as u64).saturating_sub(1);
        let late = events.iter().skip(1).filter(|event| !event.pre);
        numbers.repeated_late += late.count() as u64;
        let mut reasons = Vec::new();
        match events.first() {
            None if changed => reasons.push(Reason::Unannounced),
            None if modified => reasons.push(Reason::Silent),
            None => {}
            Some(_) if !modified => numbers.false_alarms += 1,
            Some(first) if !first.pre => numbers.late += 1,
            Some(first) if period.first_change.is_some_and(|at| at < first.mono_ns) => {
                reasons.push(Reason::After);
            }
            Some(_) => numbers.before += 1,
        }
        // Until the first modification is complete, others may be announced as well: while a page is about
        // to get its dirty mark, the file looks as if it had been written back.
        let further = || events.iter().skip(1);
        let after = |event: &Event| period.first_change.is_none_or(|at| at < event.mono_ns);
        if period.undisturbed {
            numbers.together += further().filter(|event| !after(event)).count() as u64;
            if further().any(|event| after(event) && !event.untracked) {
                reasons.push(Reason::Repeated);
            }
        }
        let strange = |event: &Event| {
            let name = event.name.as_ref();
            name.is_some_and(|name| !name.starts_with(&period.prefix))
        };
        if events.iter().any(strange) {
            reasons.push(Reason::WrongName);
        }
        for reason in reasons {
            self.faults.push(Fault {
                reason,
                file: period.file,
                at: (period.from, period.to),
                period: Some(period.clone()),
                events: events.clone(),
            });
        }
        events
    }

    /// Faults that no loss reported by premod can explain, and those that one can.
    pub(crate) fn sorted_faults(&self) -> (Vec<&Fault<L>>, Vec<&Fault<L>>) {
        let explained = |fault: &&Fault<L>| !self.losses_of(fault).is_empty();
        let (explained, unexplained) = self.faults.iter().partition(explained);
        (unexplained, explained)
    }

    /// The losses that may explain a fault: where they were.
    pub(crate) fn losses_of(&self, fault: &Fault<L>) -> Vec<&str> {
        if matches!(
            fault.reason,
            Reason::Twice | Reason::WrongName | Reason::Repeated
        ) {
            return Vec::new();
        }
        let (from, to) = fault.at;
        let from = fault.period.as_ref().map_or(from, |period| period.check);
        let losses = self.losses.iter();
        losses
            .filter(|(noticed, _)| (from..to + LOSS_NOTICED).contains(noticed))
            .map(|(_, place)| place.as_str())
            .collect()
    }
}
