//! What happens while files are frozen, as programs see it: typed, and decoded in one place.
//!
//! The [`decode::Decoder`] makes events of the kernel side's records, the [`listening::Listener`] waits for them.

mod decode;
mod listening;

use bytes::Bytes;
use jiff::Timestamp;

pub(super) use self::{decode::Decoder, listening::Listener};
use super::report::PathName;
use crate::events::{MonotonicNs, Op, Pid, Tid};

/// Something that happens while files are frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody was kept from modifying a file.
    KeptOut(KeptOut),
    /// The freeze is not what it promised to be.
    Violated(Violation),
    /// The freeze is to end. Everybody else is kept out still, but for what the deadline has let pass; thaw.
    Over(Over),
}

/// A thread, by its numbers in the initial pid namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its process.
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
    /// Its name.
    pub comm: Bytes,
}

/// Somebody was kept from modifying a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptOut {
    /// By what.
    pub how: How,
    /// When.
    pub mono: MonotonicNs,
    /// Who.
    pub task: Task,
    /// What it wanted to do.
    pub op: Op,
    /// With which file, if it is known.
    pub path: Option<PathName>,
}

/// How somebody is kept from modifying a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Its process stands still until the thaw.
    Held,
    /// Its call fails. Told for the first time only.
    Refused,
    /// Its process was killed before its store.
    Killed,
}

impl How {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Refused => "refused",
            Self::Killed => "killed",
        }
    }
}

/// A file was modified, or may have been, while it was frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Why.
    pub why: Why,
    /// When it was noticed.
    pub timestamp: Timestamp,
    /// The same on the monotonic clock.
    pub mono: MonotonicNs,
    /// The file, if one is concerned.
    pub path: Option<PathName>,
    /// What was done, if it is known.
    pub op: Option<Op>,
    /// Who, if it is known.
    pub task: Option<Task>,
}

/// Why a freeze is violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// A modification that no hook could keep out was seen.
    Modified,
    /// A store that could not be stopped before it happened.
    Stored,
    /// The kernel skipped premod's programs, so that a modification may have gone unseen.
    Skipped,
    /// The record of a modification was lost.
    Lost,
    /// The file's path leads to another file, or did for a moment.
    Replaced,
    /// The time was up before the freeze was to end.
    Expired,
    /// Somebody ended the freeze before whoever relies on it was done.
    ThawedEarly,
}

impl Why {
    /// In words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Modified => "it was modified by a way that cannot be kept out",
            Self::Stored => "a store through a mapping could not be stopped before it happened",
            Self::Skipped => {
                "the kernel skipped premod's programs, so that a modification may have gone unseen"
            }
            Self::Lost => "a modification was counted whose record was lost",
            Self::Replaced => {
                "a name on its path was renamed, replaced or removed, so that it may have led to another file"
            }
            Self::Expired => "the time was up",
            Self::ThawedEarly => "the freeze was ended before CMD had ended",
        }
    }

    /// Whether it is a condition that lasts, and is told once for each file.
    pub(super) const fn lasts(self) -> bool {
        !matches!(self, Self::Modified | Self::Stored)
    }
}

/// Why a freeze is to end though its program has not ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The time is up.
    Expired,
    /// Somebody has told it to thaw, and waits for the answer.
    Asked,
}
