//! What happens to frozen files, and how it is said.

use premod_common::guard::{GuardRecord, MmapPolicy, Mode, Tally};

use super::hold::keeper::Recovered;
use crate::{errno::Errno, events};

/// How writers are kept out.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What happens to whoever wants to modify by a system call.
    pub mode: Mode,
    /// The errno that it gets, if it is denied.
    pub errno: Option<Errno>,
    /// What happens to stores through mappings.
    pub mmap: MmapPolicy,
}

/// When and how the files became frozen.
#[derive(Clone, Copy, Debug)]
pub struct Frozen {
    /// When writers were kept out, on the monotonic clock.
    pub closed: events::MonotonicNs,
    /// When the files were known to be clean and still.
    pub since: events::MonotonicNs,
    /// When the hooks let everybody pass by themselves.
    pub deadline: events::MonotonicNs,
    /// How often the files had to be flushed: each time somebody had modified one since the time before.
    pub rounds: u32,
}

/// Why a freeze is violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Somebody ended the freeze before CMD had ended.
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
}

/// A file was modified, or may have been, while it was frozen.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Why.
    pub why: Why,
    /// The file, by its number among the targets, if one is concerned.
    pub file: Option<usize>,
    /// Who, if it is known.
    pub record: Option<GuardRecord>,
    /// When it was noticed, on the monotonic clock.
    pub mono: events::MonotonicNs,
}

/// Something that happens while files are frozen.
#[derive(Clone, Debug)]
pub enum Happened {
    /// A process was stopped until the thaw.
    Held(GuardRecord, Option<usize>),
    /// A process was refused for the first time.
    Refused(GuardRecord, Option<usize>),
    /// A process was killed before its store.
    Killed(GuardRecord, Option<usize>),
    /// The freeze is not what it promised to be.
    Violated(Violation),
}

/// How a freeze has ended.
#[derive(Debug)]
pub struct Thawed {
    /// Who was let go, and who was not.
    pub released: Recovered,
    /// What was counted.
    pub tally: Tally,
}
