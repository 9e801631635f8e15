//! `premod freeze`

use std::{ffi::OsString, future::pending, os::fd::AsFd, path::PathBuf, time::Duration};

use anyhow::Result;
use premod_common::{
    event::Op,
    guard::{GuardRecord, MmapPolicy},
};
use tokio::{
    process::Child,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{background, child, plan, signals::Signals};
use crate::{
    errno::Errno,
    events::{self, MonotonicNs},
    exit_code::{ExitCode, Failed},
    freeze::{
        Freezer, Happened, Violation, Why,
        account::Account,
        control::Request,
        registry::{Claim, Registry},
        report::{SetReport, State},
        server::{Incoming, Reply, Server},
    },
    kernel::caps,
    output::{OutputError, freeze::Stream, sets},
};

/// What `premod freeze` was asked to do.
#[derive(Debug)]
pub struct Settings {
    /// The files.
    pub files: Vec<PathBuf>,
    /// CMD and its arguments; empty if there is none.
    pub command: Vec<OsString>,
    /// The errno for writers; they wait if there is none.
    pub deny: Option<Errno>,
    /// What happens to stores through mappings.
    pub mmap: MmapPolicy,
    /// Stop every process that has a file mapped, from the beginning.
    pub stop_all: bool,
    /// How long the freeze may last at most.
    pub timeout: Duration,
    /// Freeze and return.
    pub background: bool,
    /// This is the process behind another one that was to freeze and return.
    pub behind: bool,
    /// Say only what would be done.
    pub dry_run: bool,
    /// Write JSON lines.
    pub json: bool,
    /// Where they go, if not to stdout.
    pub output: Option<PathBuf>,
}

/// How often premod looks for what nobody tells it.
const LOOK: Duration = Duration::from_millis(100);

/// Why the freeze ends.
enum End {
    /// CMD has ended with this status.
    Command(u8),
    /// A signal.
    Signal,
    /// `premod thaw`, which waits for the answer.
    Thaw(Reply),
    /// The time is up.
    Timeout,
    /// The JSON lines cannot be written any more.
    Output(OutputError),
}

/// Freezes until something ends it; returns the exit status.
///
/// # Errors
/// If the files cannot be frozen, CMD cannot be run, or the output cannot be written.
pub async fn run(settings: Settings) -> Result<u8> {
    if settings.background && !settings.behind {
        return background::start();
    }
    let builder = Freezer::builder()
        .paths(settings.files.iter().cloned())
        .mmap(settings.mmap)
        .stop_all_that_map(settings.stop_all)
        .timeout(settings.timeout);
    let builder = match settings.deny {
        Some(errno) => builder.deny(errno.0),
        None => builder,
    };
    let targets = builder.targets()?;
    if settings.dry_run {
        return plan::show(&targets, &settings);
    }
    let stream = Stream::open(settings.json, settings.output.as_deref()).map_err(Failed::from)?;
    let mut signals = Signals::listen()?;
    let account = Account::begin(&targets);
    let files: Vec<_> = targets.iter().map(AsFd::as_fd).collect();
    let claim = Registry::open()?.claim(&files)?;
    drop(files);
    let mut freezer = builder.prepare(targets)?;
    let server = claim.listen()?;
    let closed = tokio::select! {
        closed = freezer.close() => closed.map(|_| true),
        _ = signals.next() => Ok(false),
    };
    if !closed? {
        freezer.thaw()?;
        say!("premod: interrupted before the files were frozen; everybody goes on");
        return Ok(ExitCode::NotFrozenInTime as u8);
    }
    let mut session = Session {
        freezer,
        account,
        stream,
        _claim: claim,
    };
    session.begin()?;
    let own_stdout_is_data = settings.json && settings.output.is_none();
    let mut command = match child::start(&settings.command, own_stdout_is_data) {
        Ok(command) => command,
        Err(error) => {
            session.freezer.thaw()?;
            return Err(error);
        }
    };
    if let Some(pid) = command.as_ref().and_then(Child::id) {
        session.freezer.command_is(pid)?;
        session.account.command_is(pid, &settings.command);
    }
    caps::drop_all_but_needed_to_freeze()?;
    if settings.behind {
        background::is_frozen()?;
    }
    session.until_the_end(command, signals, server).await
}

/// Frozen files, and what is said about them.
struct Session {
    freezer: Freezer,
    account: Account,
    stream: Stream,
    _claim: Claim,
}

impl Session {
    /// Says that the files are frozen.
    fn begin(&mut self) -> Result<()> {
        self.account.inodes_are(self.freezer.inodes());
        let report = self.account.report(&self.freezer);
        say!("premod: {}", sets::frozen(&report));
        match self.stream.report(&report) {
            // Nobody listens; CMD is what matters.
            Ok(()) | Err(OutputError::Closed) => Ok(()),
            Err(error) => Err(Failed::from(error).into()),
        }
    }

    async fn until_the_end(
        mut self,
        mut command: Option<Child>,
        mut signals: Signals,
        mut server: Server,
    ) -> Result<u8> {
        let had_command = command.is_some();
        let end = self.follow(&mut command, &mut signals, &mut server).await?;
        // While everybody is still kept out.
        let examined = self.examine();
        let early = !matches!(end, End::Command(_)) && had_command;
        if early && !self.account.is_violated() {
            self.violated(&Violation {
                why: Why::ThawedEarly,
                file: None,
                record: None,
                mono: events::now(),
            })?;
        }
        let last = self.account.report(&self.freezer);
        let thawed = self.freezer.thaw()?;
        let report = self.account.conclude(last, &thawed.tally);
        examined?;
        say!("premod: {}", sets::thawed(&report, &thawed.released));
        let written = self.stream.report(&report);
        let by_request = matches!(end, End::Thaw(_));
        if let End::Thaw(reply) = end {
            reply.send(&report);
            server.finish().await;
        }
        let status = match (&end_code(by_request, &report, had_command), command) {
            (Some(code), Some(mut running)) => {
                running.wait().await?;
                *code as u8
            }
            (Some(code), None) => *code as u8,
            (None, Some(mut running)) => child::status(running.wait().await?),
            (None, None) => 0,
        };
        match written {
            Ok(()) | Err(OutputError::Closed) => Ok(status),
            Err(error) => Err(Failed::from(error).into()),
        }
    }
}
