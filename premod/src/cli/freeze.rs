//! `premod freeze`

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use premod_common::guard::MmapPolicy;

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
    #[arg(required = true)]
    pub files: Vec<PathBuf>,

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
    #[arg(long, value_name = "WHAT", default_value = "hold")]
    pub mmap: Mmap,

    /// Let everybody go on after this time (60, 60s, 500ms, 2m), whatever happens
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    pub timeout: Duration,

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
    /// The process is stopped before the store; one with several threads is stopped from the beginning
    Hold,
    /// Every process that has a file mapped writable is stopped from the beginning
    Stop,
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
            what: thaw::What::Files(self.files),
            json: self.json,
        }
    }

    /// Turns the options into what the command knows.
    #[must_use]
    pub fn into_settings(self) -> Settings {
        Settings {
            files: self.files,
            command: self.command,
            deny: self.deny,
            mmap: match self.mmap {
                Mmap::Hold | Mmap::Stop => MmapPolicy::Hold,
                Mmap::Kill => MmapPolicy::Kill,
                Mmap::Report => MmapPolicy::Report,
            },
            stop_all: self.mmap == Mmap::Stop,
            timeout: self.timeout,
            background: self.freeze,
            behind: self.behind,
            dry_run: self.dry_run,
            json: self.json,
            output: self.output,
        }
    }
}

/// The longest time that is taken: a week. A freeze is meant to be short.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// A number of seconds, or a time as jiff understands it: `60s`, `500ms`, `1m30s`.
fn time(text: &str) -> Result<Duration, String> {
    let time = match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|time| Duration::try_from(time).ok()),
    };
    match time {
        Some(time) if !time.is_zero() && time <= LONGEST => Ok(time),
        Some(time) if time > LONGEST => Err("too long: at most a week".to_owned()),
        _ => Err("not a time; try 60s, 500ms, 2m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood() {
        assert_eq!(time("60"), Ok(Duration::from_secs(60)));
        assert_eq!(time("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("1m30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "0", "-1s", "x", "8d", "nan", "1e300"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
