//! `premod thaw`

use std::path::PathBuf;

use clap::Args;

use super::shared::ListArgs;
use crate::commands::thaw::{Settings, What};

/// Let everybody go on with frozen files, and say what has happened to them meanwhile.
///
/// A freeze is thawed as a whole, with all its files.
#[derive(Debug, Args)]
pub struct ThawArgs {
    /// Thaw the freezes that these files belong to
    #[arg(value_name = "FILE", required_unless_present_any = ["files_from", "all", "recover"])]
    pub files: Vec<PathBuf>,

    /// Where more FILEs stand.
    #[command(flatten)]
    pub list: ListArgs,

    /// Thaw every freeze
    #[arg(long, conflicts_with_all = ["files", "files_from", "recover"])]
    pub all: bool,

    /// Continue processes that a premod which was killed has left stopped
    #[arg(long, conflicts_with_all = ["files", "files_from"])]
    pub recover: bool,

    /// Write one JSON object per freeze
    #[arg(long)]
    pub json: bool,
}

impl ThawArgs {
    /// Turns the options into what the command knows.
    #[must_use]
    pub fn into_settings(self) -> Settings {
        let what = if self.recover {
            What::Recover
        } else if self.all {
            What::All
        } else {
            What::Files(self.list.with(self.files))
        };
        let json = self.json;
        Settings { what, json }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;

    #[test]
    fn what_to_thaw_is_said_once() {
        let parses = |arguments: &str| {
            let words = ["premod"].into_iter().chain(arguments.split(' '));
            Cli::try_parse_from(words).is_ok()
        };
        for right in [
            "thaw a b",
            "unfreeze a --json",
            "thaw --all",
            "thaw --recover --json",
            "status --json",
        ] {
            assert!(parses(right), "{right}");
        }
        for wrong in [
            "thaw",
            "thaw --json",
            "thaw --all a",
            "thaw --recover a",
            "thaw --all --recover",
            "status a",
        ] {
            assert!(!parses(wrong), "{wrong}");
        }
    }
}
