//! The command line. It ends here: commands get plain settings.

mod doctor;
mod trace;

pub use doctor::DoctorArgs;
pub use trace::TraceArgs;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};

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

const EXIT_STATUS: &str = "\
Exit status:
  0    all went well              12  the kernel has no type information (BTF)
  1    something else failed      13  the kernel lacks something premod needs
  2    wrong command line         14  a PATH does not exist, or is no file or directory
  10   not permitted              15  a PATH lies where mapped stores cannot be seen
  11   the kernel refuses BPF     16  the output cannot be written
With CMD: CMD's own, 128+N if signal N ended it, 126 if it cannot be executed, 127 if not found.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Report first modifications, before they happen
    Trace(Box<TraceArgs>),
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
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
