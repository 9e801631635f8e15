//! `premod keeper`, which premod starts for itself.

use std::path::PathBuf;

use clap::Args;

/// Continue what a freeze has stopped, when the pipe on stdin ends. premod starts this by itself.
#[derive(Debug, Args)]
pub struct KeeperArgs {
    /// Where the freeze's maps are pinned
    pub directory: PathBuf,
}
