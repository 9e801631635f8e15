//! `premod doctor`

use std::path::PathBuf;

use clap::Args;

/// Say whether and how premod works on this machine: kernel, type information, capabilities, hooks, and
/// what can be promised on each filesystem. Exit status 0 only if trace would work.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Write one JSON object
    #[arg(long)]
    pub json: bool,

    /// Also write, store and truncate a scratch file in DIR, and see whether premod reports it
    #[arg(long, value_name = "DIR")]
    pub probe: Option<PathBuf>,
}
