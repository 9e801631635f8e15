//! What a set of frozen files says about itself: the answer to `premod status` and `premod thaw`, and a
//! line of JSON for programs (docs/json.md).

pub(super) mod account;
mod spelling;

use jiff::Timestamp;
use premod_common::guard::{MmapPolicy, Mode};
use serde::{Deserialize, Serialize};

pub use self::spelling::{Argv, CommName, PathName};
use self::spelling::{MmapWord, ModeWord, date, op};
use crate::{
    events::{Device, MonotonicNs, Op, Pid, Tid},
    output::json::SCHEMA,
};

/// Of so many violations a report tells more than that they happened.
pub const VIOLATIONS_TOLD: usize = 16;

/// One freeze: its files, its terms, and what has happened so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetReport {
    /// Version of the field names: [`SetReport::SCHEMA`].
    pub schema: u32,
    /// Tells the line from those of other types.
    pub r#type: SetType,
    /// The premod that freezes.
    pub pid: Pid,
    /// How far it is.
    pub state: State,
    /// What happens to whoever wants to modify a file by a system call.
    #[serde(with = "ModeWord")]
    pub mode: Mode,
    /// Name of the errno that it gets: there with [`Mode::Deny`] only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// What happens to whoever stores through a mapping.
    #[serde(with = "MmapWord")]
    pub mmap: MmapPolicy,
    /// When premod began to freeze.
    #[serde(with = "date")]
    pub began: Timestamp,
    /// When the kernel lets everybody go, whatever happens.
    pub deadline_mono_ns: MonotonicNs,
    /// How long it is until then; 0 when it has passed, and after a thaw.
    pub remaining_ns: u64,
    /// From the moment at which writers were kept out until the files were known to be clean and still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ns: Option<u64>,
    /// How often the files had to be flushed: each time somebody had modified one since the time before. There
    /// as soon as they are frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// The files.
    pub files: Vec<FileReport>,
    /// Who is being held now.
    pub held: Vec<Held>,
    /// System calls that were refused with the errno.
    pub refused: u64,
    /// Processes that were killed before a store.
    pub killed: u64,
    /// Modifications that happened, or may have, although the files were said to be frozen.
    pub violations: Violations,
    /// CMD, if there is one.
    pub command: Option<CommandReport>,
}

impl SetReport {
    /// The version that this premod speaks.
    pub const SCHEMA: u32 = SCHEMA;

    /// Whether a file was modified, or may have been, while it was said to be frozen.
    #[must_use]
    pub const fn is_violated(&self) -> bool {
        self.violations.count > 0
    }
}

/// The type of the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetType {
    /// A [`SetReport`].
    #[default]
    Freeze,
}

/// How far a freeze is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Writers are kept out, but the files may still change.
    Freezing,
    /// The files do not change.
    Frozen,
    /// Everybody has been let go.
    Thawed,
}

impl State {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Freezing => "freezing",
            Self::Frozen => "frozen",
            Self::Thawed => "thawed",
        }
    }
}

/// A file of the set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Where it is.
    #[serde(flatten)]
    pub path: PathName,
    /// Its device as `stat` says: on btrfs the subvolume's own.
    pub device: Device,
    /// Its inode number.
    pub inode: u64,
    /// Its inode generation, where the filesystem tells it.
    #[serde(rename = "igen", default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
}

/// A process that is stopped until the thaw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The process.
    pub pid: Pid,
    /// The thread that wanted to modify a file.
    pub tid: Tid,
    /// Its name.
    #[serde(flatten)]
    pub comm: CommName,
    /// What it wanted to do; `None` if it was stopped beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "op")]
    pub op: Option<Op>,
    /// With which file; `None` if it was stopped beforehand.
    #[serde(flatten)]
    pub path: Option<PathName>,
    /// For how long it has been held.
    pub for_ns: u64,
    /// Somebody else has stopped it too: premod will not continue it.
    pub stopped_by_others: bool,
}

/// What should not have happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violations {
    /// How many there are.
    pub count: u64,
    /// The first [`VIOLATIONS_TOLD`] of them.
    pub first: Vec<Violation>,
}

impl Violations {
    /// One more.
    pub fn add(&mut self, violation: Violation) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < VIOLATIONS_TOLD {
            self.first.push(violation);
        }
    }
}

/// One modification of a frozen file, or one that cannot be ruled out. Of the latter little is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// When.
    #[serde(with = "date")]
    pub timestamp: Timestamp,
    /// Which file.
    #[serde(flatten)]
    pub path: Option<PathName>,
    /// What was done to it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "op")]
    pub op: Option<Op>,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,
    /// The thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<Tid>,
    /// Its name.
    #[serde(flatten)]
    pub comm: Option<CommName>,
    /// Why it could not be prevented, or cannot be ruled out, in words.
    pub why: String,
}

/// The CMD of `premod freeze -- CMD`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandReport {
    /// Its process.
    pub pid: Pid,
    /// How it was called.
    #[serde(flatten)]
    pub argv: Argv,
}
