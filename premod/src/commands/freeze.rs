//! `premod freeze`

use std::{ffi::OsString, path::PathBuf, time::Duration};

use anyhow::Result;
use premod_common::guard::MmapPolicy;
use tokio::time::timeout;

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
    exit_code::{ExitCode, Failed},
    freeze::{
        Event, Freezer, Over, Thawed, Until,
        report::{Held, Violation as Told},
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

/// Why the freeze ends.
enum End {
    /// CMD has ended with this status.
    Command(u8),
    /// A signal.
    Signal,
    /// The time is up, or `premod thaw`.
    Over(Over),
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
        .timeout(settings.timeout)
        .until(match settings.command.is_empty() {
            true => Until::Told,
            false => Until::Done,
        })
        .unattended(settings.behind);
    let builder = match settings.deny {
        Some(errno) => builder.deny(errno),
        None => builder,
    };
    let targets = builder.targets()?;
    if settings.dry_run {
        let users = builder.users(&targets).await?;
        return plan::show_plan(&users, &targets, &builder.terms(), settings.json);
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
    let mut freezer = builder.prepare(targets)?;
    let closed = tokio::select! {
        closed = freezer.close() => closed.map(|_| true),
        _ = signals.next() => Ok(false),
    };
    if !matches!(closed, Ok(true)) {
        let thawed = detached(freezer.abandon());
        closed?;
        drop(thawed?);
        say!("premod: interrupted before the files were frozen; everybody goes on");
        return Ok(ExitCode::NotFrozenInTime as u8);
    }
    let mut session = Session {
        freezer,
        stream: Stream::default(),
        output: Ok(()),
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
            drop(detached(session.freezer.abandon())?);
            return Err(error);
        }
    };
    if let Some(pid) = command.as_ref().and_then(Running::id) {
        session.freezer.command_is(pid, &settings.command);
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
        .until_the_end(command, settings.ending, signals)
        .await
}

/// Does not wait until the kernel has taken the programs off, for which it takes its time. Nobody else waits for that either.
fn detached(thawed: Result<Thawed, Error>) -> Result<Thawed, Error> {
    let mut thawed = thawed?;
    detach::behind(|| thawed.detach());
    Ok(thawed)
}

/// Longest wait for what is said before CMD begins: the files are frozen meanwhile.
const SOON: Duration = Duration::from_millis(100);

/// Frozen files, and what is said about them.
struct Session {
    freezer: Freezer,
    stream: Stream,
    /// What became of the stream.
    output: Result<(), OutputError>,
}

impl Session {
    /// Says that the files are frozen.
    fn begin(&mut self, destination: Option<Destination>) -> Result<()> {
        self.stream = Stream::begin(destination).map_err(Failed::from)?;
        let report = self.freezer.report();
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
    ) -> Result<u8> {
        let followed = self.follow(&mut command, &mut signals).await;
        let thawed = detached(match followed {
            Ok(End::Command(_)) => self.freezer.thaw(),
            _ => self.freezer.abandon(),
        })?;
        for event in &thawed.last {
            tell(&mut self.stream, event);
        }
        let is_violated = thawed.report.is_violated();
        say!("premod: {}", sets::thawed(&thawed.report, &thawed.released));
        self.stream.report(&thawed.report);
        let end = match followed {
            Ok(end) => end,
            Err(error) if is_violated => {
                say!("premod: {}", printable(format!("{error:#}").as_bytes()));
                return Ok(ExitCode::Violated as u8);
            }
            Err(error) => return Err(error),
        };
        // The files are free again from then on, however long anybody reads.
        if let Err(error) = thawed.finish().await {
            complain(&error);
        }
        let status = match end {
            End::Command(status) => Some(status),
            End::Signal | End::Over(_) => None,
        };
        let mut code = match end {
            End::Over(Over::Expired) => Some(ExitCode::NotFrozen),
            _ => None,
        };
        let hurry = Hurry::if_told(status.is_none());
        if !finish(&mut self.stream, hurry, &mut self.output, &mut signals).await {
            code = Some(ExitCode::Output);
        }
        if is_violated {
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
    ) -> Result<End> {
        loop {
            tokio::select! {
                // In this order, so that no flood of what happens keeps the end away: what has happened before it
                // is told all the same.
                biased;
                signal = signals.next() => if child::signalled(command, signal, signals).await {
                    return Ok(End::Signal);
                },
                status = child::ended(command) => return Ok(End::Command(status?)),
                error = self.stream.failed() => self.output = failed(error),
                event = self.freezer.next() => match event? {
                    Event::Over(over) => return Ok(End::Over(over)),
                    event => tell(&mut self.stream, &event),
                },
            }
        }
    }
}

/// Says what has happened.
fn tell(stream: &mut Stream, event: &Event) {
    match event {
        Event::KeptOut(kept) => {
            let (how, who) = (kept.how.name(), Held::from(kept));
            say!("premod: {how}: {}", sets::kept_out(&who));
            stream.kept_out(how, &who, kept.mono);
        }
        Event::Violated(violation) => {
            let told = Told::from(violation);
            say!("premod: VIOLATED: {}", sets::violation(&told));
            stream.violated(&told, violation.mono);
        }
        // The end is told with what it was like.
        Event::Over(_) => {}
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
