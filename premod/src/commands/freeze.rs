//! `premod freeze`

use std::{ffi::OsString, os::fd::AsFd, path::PathBuf, time::Duration};

use anyhow::Result;
use premod_common::{
    event::Op,
    guard::{GUARDED_MAX, MmapPolicy},
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::{
    Ending, Names, background,
    child::{self, Running},
    complain, complain_of, descriptors,
    drain::{Hurry, drain},
    inherited::Inherited,
    plan,
    signals::Signals,
};
use crate::{
    Error,
    errno::Errno,
    events::{self, MonotonicNs},
    exit_code::{ExitCode, Failed},
    freeze::{
        Freezer, Happened, Thawed, Violation, Why,
        account::Account,
        control::{Incoming, Reply, Request, Server},
        registry::{Claim, Registry},
    },
    kernel::{caps, detach},
    output::{
        OutputError, destination::Destination, freeze::Stream, printable, sets, stderr,
        writer::STILL,
    },
};

/// What `premod freeze` was asked to do.
#[derive(Debug)]
pub struct Settings {
    /// The files.
    pub files: Names,
    /// CMD and its arguments; empty if there is none.
    pub command: Vec<OsString>,
    /// The errno for writers; they wait if there is none.
    pub deny: Option<Errno>,
    /// What happens to stores through mappings.
    pub mmap: MmapPolicy,
    /// How long the freeze may last at most.
    pub timeout: Duration,
    /// What becomes of CMD if the freeze is over before it.
    pub ending: Ending,
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
}

/// Freezes until something ends it; returns the exit status.
///
/// # Errors
/// If the files cannot be frozen, CMD cannot be run, or the output cannot be written.
pub async fn run(settings: Settings) -> Result<u8> {
    if settings.background && !settings.behind {
        return background::start(settings.files.are_on_stdin());
    }
    if settings.behind {
        background::leave_terminal()?;
    }
    let inherited = Inherited::adapt();
    let paths = settings.files.read()?;
    if settings.behind {
        background::leave_stdin()?;
    }
    descriptors::must_suffice_for(paths.len())?;
    child::check(&settings.command)?;
    let builder = Freezer::builder()
        .paths(paths)
        .mmap(settings.mmap)
        .timeout(settings.timeout);
    let builder = match settings.deny {
        Some(errno) => builder.deny(errno.0),
        None => builder,
    };
    let targets = builder.targets()?;
    if settings.dry_run {
        let users = builder.users(&targets).await?;
        return plan::show_plan(&users, &targets, &settings);
    }
    if targets.len() > GUARDED_MAX as usize {
        return Err(Error::TooManyToFreeze {
            files: targets.len(),
            most: GUARDED_MAX,
        }
        .into());
    }
    let destination = match settings.json {
        true => Some(Destination::open(settings.output.as_deref()).map_err(Failed::from)?),
        false => None,
    };
    if let Some(destination) = &destination {
        let files = targets.iter().map(|target| target.path.as_path());
        for file in files.chain(settings.files.source()) {
            destination.must_not_be(file).map_err(Failed::from)?;
        }
    }
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
        let thawed = thaw(freezer);
        closed?;
        thawed?;
        say!("premod: interrupted before the files were frozen; everybody goes on");
        return Ok(ExitCode::NotFrozenInTime as u8);
    }
    let mut session = Session {
        freezer,
        account,
        stream: Stream::default(),
        output: Ok(()),
        claim,
        is_behind: settings.behind,
    };
    let begun = match session.begin(destination) {
        Ok(()) => {
            // What has been said stands before whatever CMD says.
            let _ = timeout(SOON, stderr::settled()).await;
            let own_stdout_is_data = settings.json && settings.output.is_none();
            child::start(&settings.command, own_stdout_is_data, &inherited)
        }
        Err(error) => Err(error),
    };
    let command = match begun {
        Ok(command) => command,
        Err(error) => {
            thaw(session.freezer)?;
            return Err(error);
        }
    };
    if let Some(pid) = command.as_ref().and_then(Running::id) {
        session.account.command_is(pid, &settings.command);
    }
    caps::drop_all_but_needed_to_freeze()?;
    if settings.behind {
        if let Some(writer) = session.stream.writer() {
            let _ = timeout(STILL, writer.drained()).await;
        }
        stderr::settled().await;
        background::is_frozen()?;
    }
    session
        .until_the_end(command, settings.ending, signals, server)
        .await
}

/// Thaws, and does not wait for the kernel, which takes its time to take the programs off. Nobody else waits for that either.
fn thaw(mut freezer: Freezer) -> Result<Thawed, Error> {
    freezer.open()?;
    detach::behind(|| freezer.thaw())
}

/// Longest wait for what is said before CMD begins: the files are frozen meanwhile.
const SOON: Duration = Duration::from_millis(100);

/// Frozen files, and what is said about them.
struct Session {
    freezer: Freezer,
    account: Account,
    stream: Stream,
    /// What became of the stream.
    output: Result<(), OutputError>,
    claim: Claim,
    is_behind: bool,
}

impl Session {
    /// Says that the files are frozen.
    fn begin(&mut self, destination: Option<Destination>) -> Result<()> {
        self.stream = Stream::begin(destination).map_err(Failed::from)?;
        self.account.inodes_are(self.freezer.inodes());
        let report = self.account.report(&self.freezer);
        say!("premod: {}", sets::frozen(&report));
        self.stream.report(&report);
        Ok(())
    }

    /// Watches over the freeze until something ends it, thaws, and says how it was.
    async fn until_the_end(
        mut self,
        mut command: Option<Running>,
        ending: Ending,
        mut signals: Signals,
        mut server: Server,
    ) -> Result<u8> {
        let had_command = command.is_some();
        let followed = self.follow(&mut command, &mut signals, &mut server).await;
        // Whatever has gone wrong: what happens up to the thaw counts.
        let examined = self.examine();
        let early = had_command && !matches!(followed, Ok(End::Command(_)));
        if early && !self.account.is_violated() {
            self.violated(&because(Why::ThawedEarly));
        }
        let last = self.account.report(&self.freezer);
        let thawed = thaw(self.freezer)?;
        let report = self.account.conclude(last, &thawed.tally);
        say!("premod: {}", sets::thawed(&report, &thawed.released));
        self.stream.report(&report);
        let end = match followed.and_then(|end| examined.map(|()| end)) {
            Ok(end) => end,
            Err(error) if report.is_violated() => {
                say!("premod: {}", printable(format!("{error:#}").as_bytes()));
                return Ok(ExitCode::Violated as u8);
            }
            Err(error) => return Err(error),
        };
        if self.is_behind
            && report.is_violated()
            && !matches!(end, End::Thaw(_))
            && let Err(error) = self.claim.keep(&report)
        {
            complain(&error);
        }
        while let Some(Incoming { reply, .. }) = server.waiting() {
            reply.send(&report);
        }
        let mut code = None;
        let (hurry, status) = match end {
            End::Command(status) => (false, Some(status)),
            End::Thaw(reply) => {
                reply.send(&report);
                (true, None)
            }
            End::Signal | End::Timeout => {
                if matches!(end, End::Timeout) {
                    code = Some(ExitCode::NotFrozen);
                }
                (true, None)
            }
        };
        server.finish().await;
        // The files are free again, however long anybody reads.
        drop(self.claim);
        let hurry = Hurry::if_told(hurry);
        if !finish(&mut self.stream, hurry, &mut self.output, &mut signals).await {
            code = Some(ExitCode::Output);
        }
        if report.is_violated() {
            code = Some(ExitCode::Violated);
        }
        let status = match (status, command) {
            (None, Some(running)) => running.outlive("freeze", ending, &mut signals).await?,
            (status, _) => status.unwrap_or(0),
        };
        Ok(code.map_or(status, |code| code as u8))
    }

    async fn follow(
        &mut self,
        command: &mut Option<Running>,
        signals: &mut Signals,
        server: &mut Server,
    ) -> Result<End> {
        let deadline = self.freezer.frozen().map(|frozen| frozen.deadline);
        let deadline = instant_of(deadline.unwrap_or(MonotonicNs(0)));
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                // In this order, so that no flood of what happens keeps the end away: what has happened before it
                // is told all the same.
                biased;
                signal = signals.next() => if child::signalled(command, signal, signals).await {
                    return Ok(End::Signal);
                },
                status = child::ended(command) => return Ok(End::Command(status?)),
                () = sleep_until(deadline) => return Ok(End::Timeout),
                Incoming { request, reply } = server.next() => match request {
                    Request::Status => reply.send(&self.account.report(&self.freezer)),
                    Request::Thaw => return Ok(End::Thaw(reply)),
                },
                error = self.stream.failed() => self.output = failed(error),
                happened = self.freezer.next() => self.tell(&happened?),
                _ = look.tick() => self.examine()?,
            }
        }
    }

    /// Looks for what nobody tells.
    fn examine(&mut self) -> Result<()> {
        for happened in self.freezer.examine()? {
            self.tell(&happened);
        }
        Ok(())
    }

    fn tell(&mut self, happened: &Happened) {
        let (how, record, file) = match happened {
            // Without CMD, the end of the time is an end like any other.
            Happened::Violated(violation)
                if violation.why == Why::Expired && !self.account.has_command() =>
            {
                return;
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
        self.stream.kept_out(how, &who, MonotonicNs(record.mono_ns));
    }

    fn violated(&mut self, violation: &Violation) {
        let Some(told) = self.account.violated(violation) else {
            return;
        };
        say!("premod: VIOLATED: {}", sets::violation(&told));
        self.stream.violated(&told, violation.mono);
    }
}

/// Nothing more can be written. That does not end a freeze that others rely on, but is said at once.
fn failed(error: OutputError) -> Result<(), OutputError> {
    if matches!(error, OutputError::Closed) {
        return Ok(());
    }
    complain_of(&error);
    Err(error)
}

/// Ends the stream; whether everything was written for which there was a reader.
async fn finish(
    stream: &mut Stream,
    mut hurry: Hurry,
    output: &mut Result<(), OutputError>,
    signals: &mut Signals,
) -> bool {
    if let Some(writer) = stream.writer() {
        drain(writer, &mut hurry, signals).await;
        if writer.has_failed() {
            if let Ok(error) = timeout(Duration::ZERO, stream.failed()).await {
                *output = failed(error);
            }
            return output.is_ok();
        }
    }
    let unwritten = stream.give_up();
    if unwritten > 0 {
        let name = printable(stream.name().as_bytes());
        say!("premod: {unwritten} lines not written: whoever reads {name} stood still");
    }
    unwritten == 0
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

/// When a moment of the monotonic clock is, for tokio.
fn instant_of(mono: MonotonicNs) -> Instant {
    Instant::now() + Duration::from_nanos(mono.0.saturating_sub(events::now().0))
}
