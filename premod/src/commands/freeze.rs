//! `premod freeze`

use std::{ffi::OsString, os::fd::AsFd, path::PathBuf, time::Duration};

use anyhow::Result;
use premod_common::{event::Op, guard::MmapPolicy};
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
        control::{Incoming, Reply, Request, Server},
        registry::{Claim, Registry},
    },
    kernel::{caps, detach},
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
    if settings.behind {
        background::leave_terminal()?;
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
        return plan::show_plan(&targets, &settings);
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
    if !matches!(closed, Ok(true)) {
        let thawed = detach::behind(|| freezer.thaw());
        closed?;
        thawed?;
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
    let command = match child::start(&settings.command, own_stdout_is_data) {
        Ok(command) => command,
        Err(error) => {
            detach::behind(|| session.freezer.thaw())?;
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

    /// Watches over the freeze until something ends it, thaws, and says how it was.
    async fn until_the_end(
        mut self,
        mut command: Option<Child>,
        mut signals: Signals,
        mut server: Server,
    ) -> Result<u8> {
        let had_command = command.is_some();
        let followed = self.follow(&mut command, &mut signals, &mut server).await;
        // Whatever has gone wrong: what happens up to the thaw counts.
        let examined = self.examine();
        let early = had_command && !matches!(followed, Ok(End::Command(_)));
        if early && !self.account.is_violated() {
            self.violated(&because(Why::ThawedEarly))?;
        }
        let last = self.account.report(&self.freezer);
        let thawed = detach::behind(|| self.freezer.thaw())?;
        let report = self.account.conclude(last, &thawed.tally);
        say!("premod: {}", sets::thawed(&report, &thawed.released));
        let written = self.stream.report(&report);
        let (end, ()) = (followed?, examined?);
        if let End::Thaw(reply) = end {
            reply.send(&report);
            server.finish().await;
            return finish(
                written,
                command,
                report.is_violated().then_some(ExitCode::Violated),
                0,
            )
            .await;
        }
        let code = match &end {
            _ if report.is_violated() => Some(ExitCode::Violated),
            End::Timeout => Some(ExitCode::NotFrozen),
            _ => None,
        };
        let status = if let End::Command(status) = end {
            status
        } else {
            0
        };
        let written = if let End::Output(error) = end {
            Err(error)
        } else {
            written
        };
        finish(written, command, code, status).await
    }

    async fn follow(
        &mut self,
        command: &mut Option<Child>,
        signals: &mut Signals,
        server: &mut Server,
    ) -> Result<End> {
        let deadline = self.freezer.frozen().map(|frozen| frozen.deadline);
        let deadline = instant_of(deadline.unwrap_or(MonotonicNs(0)));
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut forwarded = false;
        loop {
            tokio::select! {
                // In this order: what has happened is told before the end is acted upon.
                biased;
                happened = self.freezer.next() => {
                    let happened = happened?;
                    if let Err(error) = self.tell(&happened) {
                        return Ok(End::Output(error));
                    }
                }
                status = child::ended(command) => return Ok(End::Command(child::status(status?))),
                signal = signals.next() => match command {
                    // The first is CMD's, as with any program that runs another.
                    Some(running) if !forwarded => {
                        child::send(running, signal);
                        forwarded = true;
                    }
                    _ => return Ok(End::Signal),
                },
                Incoming { request, reply } = server.next() => match request {
                    Request::Status => reply.send(&self.account.report(&self.freezer)),
                    Request::Thaw => return Ok(End::Thaw(reply)),
                },
                () = sleep_until(deadline) => return Ok(End::Timeout),
                _ = look.tick() => self.examine()?,
            }
        }
    }

    /// Looks for what nobody tells.
    fn examine(&mut self) -> Result<()> {
        for happened in self.freezer.examine()? {
            self.tell(&happened).map_err(Failed::from)?;
        }
        Ok(())
    }

    fn tell(&mut self, happened: &Happened) -> Result<(), OutputError> {
        let (how, record, file) = match happened {
            // Without CMD, the end of the time is an end like any other.
            Happened::Violated(violation)
                if violation.why == Why::Expired && !self.account.has_command() =>
            {
                return Ok(());
            }
            Happened::Violated(violation) => return self.violated(violation),
            Happened::Held(record, file) => {
                if record.op == Op::Mmap as u32 {
                    self.freezer.protect_again();
                }
                ("held", record, *file)
            }
            Happened::Refused(record, file) => ("refused", record, *file),
            Happened::Killed(record, file) => ("killed", record, *file),
        };
        let who = self.account.held(record, file);
        say!("premod: {how}: {}", sets::kept_out(&who));
        unless_closed(self.stream.kept_out(how, &who, MonotonicNs(record.mono_ns)))
    }

    fn violated(&mut self, violation: &Violation) -> Result<(), OutputError> {
        let Some(told) = self.account.violated(violation) else {
            return Ok(());
        };
        say!("premod: VIOLATED: {}", sets::violation(&told));
        unless_closed(self.stream.violated(&told, violation.mono))
    }
}

/// A violation that nobody has committed.
fn because(why: Why) -> Violation {
    Violation {
        why,
        file: None,
        record: None,
        mono: events::now(),
    }
}

/// A reader that has gone does not end a freeze that others rely on.
fn unless_closed(written: Result<(), OutputError>) -> Result<(), OutputError> {
    match written {
        Err(OutputError::Closed) => Ok(()),
        written => written,
    }
}

/// When a moment of the monotonic clock is, for tokio.
fn instant_of(mono: MonotonicNs) -> Instant {
    Instant::now() + Duration::from_nanos(mono.0.saturating_sub(events::now().0))
}

/// Waits for CMD, if it still runs; the exit status.
async fn finish(
    written: Result<(), OutputError>,
    command: Option<Child>,
    code: Option<ExitCode>,
    status: u8,
) -> Result<u8> {
    let status = match command {
        Some(mut running) => child::status(running.wait().await?),
        None => status,
    };
    unless_closed(written).map_err(Failed::from)?;
    Ok(code.map_or(status, |code| code as u8))
}
