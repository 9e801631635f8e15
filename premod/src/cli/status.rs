//! `premod status`

use clap::Args;

/// Say what is frozen, by which premod, for how long still, who is being held, and whether a freeze was
/// violated.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Write one JSON object per freeze
    #[arg(long)]
    pub json: bool,
}
