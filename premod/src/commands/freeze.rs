//! `premod freeze`

use std::{ffi::OsString, path::PathBuf, time::Duration};

use anyhow::Result;
use premod_common::guard::MmapPolicy;

use super::child;
use crate::{Error, errno::Errno, freeze::Freezer};

/// What `premod freeze` was asked to do.
#[derive(Debug)]
pub struct Settings {
    pub files: Vec<PathBuf>,
    pub command: Vec<OsString>,
    pub deny: Option<Errno>,
    pub mmap: MmapPolicy,
    pub stop_all: bool,
    pub timeout: Duration,
    pub background: bool,
    pub behind: bool,
    pub dry_run: bool,
    pub json: bool,
    pub output: Option<PathBuf>,
}

pub async fn run(settings: Settings) -> Result<u8> {
    let mut builder = Freezer::builder()
        .paths(settings.files)
        .mmap(settings.mmap)
        .stop_all_that_map(settings.stop_all)
        .timeout(settings.timeout);
    if let Some(errno) = settings.deny {
        builder = builder.deny(errno.0);
    }
    let targets = builder.targets()?;
    let mut freezer = builder.prepare(targets)?;
    say!("premod: prepared");
    let frozen = freezer.close().await?;
    say!(
        "premod: frozen {frozen:?} {:?} held {:?}",
        (frozen.since.0 - frozen.closed.0) / 1000,
        freezer.held()
    );
    let mut child = child::start(&settings.command, false)?.unwrap();
    freezer.command_is(child.id().unwrap())?;
    let status = loop {
        tokio::select! {
            happened = freezer.next() => say!("premod: {:?}", happened?),
            status = child.wait() => break status?,
        }
    };
    for happened in freezer.examine()? {
        say!("premod: {happened:?}");
    }
    say!("premod: held {:?}", freezer.held());
    let thawed = freezer.thaw()?;
    say!("premod: {thawed:?}");
    let _ = Error::BadValue(String::new());
    Ok(child::status(status))
}
