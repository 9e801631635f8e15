//! Options that `trace` and `freeze` have in common.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use rustix::process::Signal;

use super::time::time;
use crate::commands::{Ending, List, Names};

/// A list of files.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Also the files that are named in FILE, one a line; - for stdin
    #[arg(long, value_name = "FILE")]
    pub files_from: Option<PathBuf>,

    /// Names in the list end with NUL, as those of find -print0
    #[arg(short = '0', long, requires = "files_from")]
    pub null: bool,
}

impl ListArgs {
    /// Together with the names on the command line.
    #[must_use]
    pub fn with(self, given: Vec<PathBuf>) -> Names {
        let null = self.null;
        let list = self.files_from.map(|file| List { file, null });
        Names { given, list }
    }
}

/// What becomes of CMD, in the words of timeout(1).
#[derive(Debug, Args)]
pub struct EndingArgs {
    /// Send SIGNAL (TERM, INT, 15) to CMD if premod has done its work before CMD ends
    #[arg(short, long, value_name = "SIGNAL", requires = "command", value_parser = signal)]
    pub signal: Option<Signal>,

    /// The same, and KILL if CMD still runs TIME later; SIGNAL is TERM if none is given
    #[arg(short, long, value_name = "TIME", requires = "command", value_parser = time)]
    pub kill_after: Option<Duration>,
}

impl From<EndingArgs> for Ending {
    fn from(arguments: EndingArgs) -> Self {
        let EndingArgs { signal, kill_after } = arguments;
        Self {
            signal: signal.or(kill_after.map(|_| Signal::TERM)),
            kill_after,
        }
    }
}

/// Signals that have a name, without its SIG.
const NAMES: [(&str, Signal); 17] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ABRT", Signal::ABORT),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("XCPU", Signal::XCPU),
    ("VTALRM", Signal::VTALARM),
    ("WINCH", Signal::WINCH),
    ("IO", Signal::IO),
];

/// A name, with SIG or without, or a number.
fn signal(text: &str) -> Result<Signal, String> {
    let number = text.parse().ok().and_then(Signal::from_named_raw);
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = NAMES.iter().find(|(known, _)| *known == name);
    number
        .or(named.map(|&(_, signal)| signal))
        .ok_or_else(|| "not a signal; try TERM, INT, KILL".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_understood() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(signal(text), Ok(Signal::TERM), "{text}");
        }
        for wrong in ["", "SIG", "0", "-1", "65", "TERMINATE", "EXIT"] {
            assert!(signal(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn to_kill_later_is_to_ask_first() {
        let kill_after = Some(Duration::from_secs(1));
        let signal = None;
        let ending = Ending::from(EndingArgs { signal, kill_after });
        assert_eq!(ending.signal, Some(Signal::TERM));
        let ending = Ending::from(EndingArgs {
            signal,
            kill_after: None,
        });
        assert_eq!(ending, Ending::default());
    }
}
