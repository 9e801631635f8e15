//! The command line. It ends here: commands get plain settings.

mod cgroup;
mod doctor;
mod freeze;
mod shared;
mod status;
mod thaw;
mod time;
mod trace;

pub use doctor::DoctorArgs;
pub use freeze::FreezeArgs;
pub use status::StatusArgs;
pub use thaw::ThawArgs;
pub use trace::TraceArgs;

use clap::{
    ArgAction, CommandFactory, Parser, Subcommand,
    error::{ContextValue, Error},
};

use crate::output::printable;

/// Tells that a file is about to change, before it changes.
///
/// premod reports the first modification of each file since its data was last clean, before it happens
/// and whatever the way: write, a store through a mapping that existed before, truncate, fallocate,
/// reflink, splice, io_uring.
#[derive(Debug, Parser)]
#[command(name = "premod", version, max_term_width = 100, after_help = EXIT_STATUS)]
pub struct Cli {
    /// Say more on stderr; twice: let the kernel side speak too.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The arguments of this process. If they are wrong, it ends with a sentence in which they are fit for
    /// a terminal.
    #[must_use]
    pub fn parse_harmlessly() -> Self {
        Self::try_parse().unwrap_or_else(|error| harmless(error).exit())
    }
}

/// clap quotes arguments as they are.
fn harmless(mut error: Error) -> Error {
    let text = |text: &String| printable(text.as_bytes());
    let quoted: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| {
            let value = match value {
                ContextValue::String(value) => ContextValue::String(text(value)),
                ContextValue::Strings(values) => {
                    ContextValue::Strings(values.iter().map(text).collect())
                }
                ContextValue::StyledStrs(values) => {
                    let plain = values.iter().map(|value| text(&value.to_string()).into());
                    ContextValue::StyledStrs(plain.collect())
                }
                _ => return None,
            };
            Some((kind, value))
        })
        .collect();
    for (kind, value) in quoted {
        error.insert(kind, value);
    }
    error
}

const EXIT_STATUS: &str = "\
Exit status:
  0    all went well              12  the kernel has no type information (BTF)
  1    something else failed      13  the kernel lacks something premod needs
  2    wrong command line         14  a PATH does not exist, or is no file or directory
  10   not permitted              15  a PATH lies where mapped stores cannot be seen
  11   the kernel refuses BPF     16  the output cannot be written to its end
  17   violated: a frozen file was modified, or may have been; what was read is not safe
  18   the files could not be frozen in time
  19   a file is frozen already by another premod
  20   thaw: a FILE is not frozen; freeze without CMD: the timeout ended it
  21   more files than premod may have open, one freeze takes, or a trace can follow
With CMD: CMD's own, 128+N if signal N ended it, 126 if it cannot be executed, 127 if not found.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Report first modifications, before they happen
    Trace(Box<TraceArgs>),
    /// Flush files, keep writers out while a command runs, and let everybody go on
    Freeze(Box<FreezeArgs>),
    /// Say what is frozen, for how long, and who is being held
    Status(StatusArgs),
    /// Let everybody go on with frozen files
    #[command(visible_alias = "unfreeze")]
    Thaw(ThawArgs),
    /// Say whether and how premod works on this machine
    Doctor(DoctorArgs),
}

/// The whole command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::{collection::vec, prelude::*};

    use super::{Cli, harmless};
    use crate::fuzz;

    proptest! {
        #![proptest_config(fuzz::effort(1000))]

        #[test]
        fn no_wrong_argument_reaches_the_terminal_raw(
            words in vec((0..12usize, fuzz::text(20)), 1..4)
        ) {
            let options = [
                "", "-", "--", "--op=", "-p", "-n", "-d", "--buffer-size=", "--cgroup=", "--no", "trace ", "--fs",
            ];
            let all = words.iter().map(|(option, text)| format!("{}{text}", options[*option]));
            for verb in [None, Some("trace"), Some("doctor"), Some("status"), Some("thaw")] {
                let verb = verb.map(str::to_owned);
                let arguments = std::iter::once("premod".to_owned()).chain(verb).chain(all.clone());
                let Err(error) = Cli::try_parse_from(arguments) else { continue };
                // The styles are clap's own; it leaves them out where there is no terminal.
                let sentence = harmless(error).render().to_string();
                let raw = |character: char| character != '\n' && crate::output::is_dangerous(character);
                prop_assert!(!sentence.chars().any(raw), "{sentence:?}");
                // A newline between other characters is the argument's, not clap's.
                let mut broken = words.iter().filter(|(_, text)| text.trim().contains('\n'));
                prop_assert!(!broken.any(|(_, text)| sentence.contains(text)), "{sentence:?}");
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
