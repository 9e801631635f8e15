//! `premod freeze`

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use premod_common::guard::MmapPolicy;

use super::{
    shared::{EndingArgs, ListArgs},
    time::time_frozen,
};
use crate::{
    commands::{freeze::Settings, thaw},
    errno::Errno,
};

/// Freeze files: flush them, keep writers out, run CMD, and let everybody go on.
///
/// While CMD runs, no byte of the FILEs changes, although others have them open and mapped; all FILEs are
/// frozen together, and CMD starts when all are. Without CMD they stay frozen until SIGINT, SIGTERM, premod
/// thaw or the timeout.
#[derive(Debug, Args)]
pub struct FreezeArgs {
    /// Regular files on ext4, xfs or btrfs
    #[arg(required_unless_present = "files_from")]
    pub files: Vec<PathBuf>,

    /// Where more FILEs stand.
    #[command(flatten)]
    pub list: ListArgs,

    /// Run while the files are frozen, and end with its exit status
    #[arg(last = true, value_name = "CMD", conflicts_with_all = ["freeze", "unfreeze"])]
    pub command: Vec<OsString>,

    /// Writers wait, and succeed after the thaw (the default)
    #[arg(long, conflicts_with = "deny")]
    pub hold: bool,

    /// Writers fail with this errno, EBUSY if none is given
    #[arg(long, value_name = "ERRNO", num_args = 0..=1, require_equals = true, default_missing_value = "EBUSY", value_parser = Errno::parse)]
    pub deny: Option<Errno>,

    /// What happens to processes that store through a mapping, for which there is no errno
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    pub mmap: Mmap,

    /// Let everybody go on after this time (60, 0.5, 500ms, 1m30s), whatever happens
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time_frozen)]
    pub timeout: Duration,

    /// What becomes of CMD.
    #[command(flatten)]
    pub ending: EndingArgs,

    /// Freeze and return; the files stay frozen until premod thaw, or the timeout
    #[arg(short, long)]
    pub freeze: bool,

    /// Thaw the files: the same as premod thaw
    #[arg(short, long, conflicts_with = "freeze")]
    pub unfreeze: bool,

    /// Say who uses the files, and what would happen to them; freeze nothing
    #[arg(long, conflicts_with_all = ["freeze", "unfreeze", "command"])]
    pub dry_run: bool,

    /// Write one JSON object per line
    #[arg(long)]
    pub json: bool,

    /// Write the JSON lines to FILE instead of stdout
    #[arg(short, long, value_name = "FILE", requires = "json")]
    pub output: Option<PathBuf>,

    /// This is the process behind `freeze -f`: it says on stdout when the files are frozen
    #[arg(long, hide = true)]
    pub behind: bool,
}

/// What happens to a store through a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mmap {
    /// Every process that has a file mapped writable is held from the beginning
    Stop,
    /// The process is stopped at its first store; one whose memory others share is held from the beginning
    Hold,
    /// The process is killed before the store
    Kill,
    /// The store happens, and the freeze is violated
    Report,
}

impl FreezeArgs {
    /// What `premod thaw` would be told, for `-u`.
    #[must_use]
    pub fn into_thaw_settings(self) -> thaw::Settings {
        thaw::Settings {
            what: thaw::What::Files(self.list.with(self.files)),
            json: self.json,
        }
    }

    /// Turns the options into what the command knows.
    #[must_use]
    pub fn into_settings(self) -> Settings {
        Settings {
            files: self.list.with(self.files),
            command: self.command,
            deny: self.deny,
            mmap: match self.mmap {
                Mmap::Stop => MmapPolicy::Stop,
                Mmap::Hold => MmapPolicy::Hold,
                Mmap::Kill => MmapPolicy::Kill,
                Mmap::Report => MmapPolicy::Report,
            },
            timeout: self.timeout,
            ending: self.ending.into(),
            background: self.freeze,
            behind: self.behind,
            dry_run: self.dry_run,
            json: self.json,
            output: self.output,
        }
    }
}
