//! `premod trace`

use std::{ffi::OsString, future::pending, path::PathBuf, time::Duration};

use anyhow::Result;
use aya_log::EbpfLogger;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

use super::{
    Ending, Names,
    child::{self, Running},
    complain_of, descriptors,
    drain::{Hurry, drain},
    inherited::{Inherited, stdout_was_closed},
    signals::Signals,
};
use crate::{
    Summary, Tracer,
    events::Record,
    exit_code::{ExitCode, Failed},
    kernel::{caps, detach},
    namespaces::{self, Kind},
    output::{
        Cgroup, Filter, Form, Output, OutputError, destination::Destination, printable, stderr,
    },
};

/// What `premod trace` was asked to do.
#[derive(Debug)]
pub struct Settings {
    /// Files and directories; all files if there is none.
    pub paths: Names,
    /// CMD and its arguments; empty if there is none.
    pub command: Vec<OsString>,
    /// What becomes of CMD if the trace is over before it.
    pub ending: Ending,
    /// How events look.
    pub form: Form,
    /// Where they go, if not to stdout.
    pub output: Option<PathBuf>,
    /// End after this many.
    pub events: Option<u64>,
    /// End after this long.
    pub duration: Option<Duration>,
    /// Bytes of the ring buffer.
    pub buffer_size: u32,
    /// How long changes without dirty pages and without a sync count as one period.
    pub period: Duration,
    /// Report premod's own modifications too.
    pub own: bool,
    /// Wait for PATHs that do not exist yet.
    pub wait: bool,
    /// What the kernel side may say.
    pub kernel_log_level: u8,
    /// Which events are shown.
    pub filter: Filter,
}

/// Why a trace ended.
enum End {
    /// A signal, or the time limit.
    Told,
    /// The number of events.
    Enough,
    /// CMD has ended with this status.
    Command(u8),
    /// The output cannot be written any more.
    Output(OutputError),
}

/// Traces until something ends it; returns the exit status.
///
/// # Errors
/// If tracing cannot begin, CMD cannot be run, or the output cannot be written.
pub async fn run(settings: Settings) -> Result<u8> {
    let inherited = Inherited::adapt();
    let paths = settings.paths.read()?;
    descriptors::must_suffice_for(paths.len())?;
    child::check(&settings.command)?;
    if settings.output.is_none() && stdout_was_closed() {
        return Err(Failed::from(OutputError::Write {
            to: "stdout".to_owned(),
            source: std::io::Error::from_raw_os_error(libc::EBADF),
        })
        .into());
    }
    let destination = Destination::open(settings.output.as_deref()).map_err(Failed::from)?;
    if settings.output.is_some() {
        for path in paths
            .iter()
            .map(PathBuf::as_path)
            .chain(settings.paths.source())
        {
            destination.must_not_be(path).map_err(Failed::from)?;
        }
    }
    let mut builder = Tracer::builder().paths(paths.iter().cloned());
    for place in settings.filter.exclude.places() {
        builder = builder.exclude(place);
    }
    for cgroup in &settings.filter.cgroups {
        builder = match cgroup {
            Cgroup::Tree(id) => builder.cgroup(*id),
            Cgroup::Directory(path) => builder.cgroup_directory(path),
            Cgroup::Alone(_) => builder,
        };
    }
    let mut tracer = builder
        .buffer_size(settings.buffer_size)
        .period(settings.period)
        .include_own(settings.own)
        .wait(settings.wait)
        .log_level(settings.kernel_log_level)
        .start()?;
    if !tracer.uses_lsm() {
        say!(
            "premod: bpf is not among the active LSMs (/sys/kernel/security/lsm): tracing by fentry on the security_ functions instead"
        );
    }
    let logger = match settings.kernel_log_level {
        0 => None,
        _ => Some(listen(EbpfLogger::init(tracer.object())?)?),
    };
    let mut signals = Signals::listen()?;
    let output = Output::begin(destination, settings.form).map_err(Failed::from)?;
    // What has been said stands before whatever CMD says.
    stderr::settled().await;
    // CMD gets the capabilities that premod was started with; premod itself needs few from here on.
    let own_stdout_is_data = settings.output.is_none();
    let mut command = child::start(&settings.command, own_stdout_is_data, &inherited)?;
    caps::drop_all_but_needed()?;
    tracing::info!("{} hooks are attached", tracer.attachments().len());

    for path in tracer.missing() {
        let path = printable(path.as_os_str().as_encoded_bytes());
        say!("premod: {path} does not exist yet; waiting for it");
    }
    if let [first, more @ ..] = tracer.unseen() {
        let point = printable(first.point.as_os_str().as_encoded_bytes());
        let others = match more.len() {
            0 => String::new(),
            others => format!(", nor at {others} more of the mount points below the PATHs"),
        };
        let filesystem = first.filesystem;
        say!("premod: what changes at {point} ({filesystem}) is not seen{others}");
    }
    if settings.filter.names_processes() && namespaces::is_in_another(Kind::Pid) {
        say!("premod: -p and -t count processes as the machine does, not as this pid namespace");
    }
    say!("premod: tracing {}", described(&paths));

    let began = Instant::now();
    let mut session = Session {
        tracer,
        output,
        filter: settings.filter,
        left: settings.events,
        logger,
    };
    let deadline = settings.duration.map(|duration| began + duration);
    let mut end = session.follow(deadline, &mut command, &mut signals).await?;
    let written = session.finish(&mut end, &mut signals).await;
    conclude(&session, began.elapsed());
    detach::behind(|| drop(session));

    let code = match written {
        Ok(0) | Err(OutputError::Closed) => None,
        Ok(_) => Some(ExitCode::Output),
        Err(error) => {
            complain_of(&error);
            Some(ExitCode::Output)
        }
    };
    let status = match (end, command) {
        (End::Command(status), _) => status,
        (_, Some(running)) => {
            let ending = settings.ending;
            running.outlive("trace", ending, &mut signals).await?
        }
        _ => 0,
    };
    Ok(code.map_or(status, |code| code as u8))
}

/// What the kernel side says.
type Logger = EbpfLogger<&'static dyn log::Log>;

fn listen(logger: Logger) -> std::io::Result<AsyncFd<Logger>> {
    // SAFETY: a logger returns the same open descriptor for as long as it lives.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    registered.map_err(Into::into)
}

/// A trace and where it goes.
struct Session {
    tracer: Tracer,
    output: Output,
    filter: Filter,
    /// How many more events are wanted.
    left: Option<u64>,
    logger: Option<AsyncFd<Logger>>,
}

impl Session {
    /// Shows records until something ends the trace.
    async fn follow(
        &mut self,
        deadline: Option<Instant>,
        command: &mut Option<Running>,
        signals: &mut Signals,
    ) -> Result<End> {
        loop {
            let has_room = self.output.writer().has_room();
            tokio::select! {
                // In this order, so that no flood of events keeps the end away: what has happened before it is
                // shown all the same.
                biased;
                // What CMD still writes after a signal belongs to the trace.
                signal = signals.next() => if child::signalled(command, signal, signals).await {
                    return Ok(End::Told);
                },
                () = passed(deadline) => return Ok(End::Told),
                status = child::ended(command) => return Ok(End::Command(status?)),
                () = self.output.writer().stirred(has_room) => {
                    if let Some(error) = self.output.error() {
                        return Ok(End::Output(error));
                    }
                }
                record = next(&mut self.tracer, has_room) => {
                    let Some(record) = record else { return Ok(End::Enough) };
                    self.show_batch(record);
                    if self.left == Some(0) {
                        return Ok(End::Enough);
                    }
                }
                () = log_ready(&mut self.logger) => {}
                () = self.output.deserted() => return Ok(End::Output(OutputError::Closed)),
            }
        }
    }

    /// Stops, shows what is left, and ends the output; how many lines could not be written.
    async fn finish(&mut self, end: &mut End, signals: &mut Signals) -> Result<u64, OutputError> {
        self.tracer.stop();
        if let Some(logger) = &mut self.logger {
            logger.get_mut().flush();
        }
        if let End::Output(error) = end {
            return Err(std::mem::replace(error, OutputError::Closed));
        }
        let mut hurry = Hurry::if_told(matches!(end, End::Told));
        while let Some(record) = self.tracer.next().await {
            self.show(&record);
            if !self.output.writer().has_room() {
                self.drain(&mut hurry, signals).await?;
            }
        }
        self.output.finish(&self.tracer.summary());
        self.drain(&mut hurry, signals).await?;
        Ok(self.output.unwritten())
    }

    async fn drain(&mut self, hurry: &mut Hurry, signals: &mut Signals) -> Result<(), OutputError> {
        if self.output.unwritten() == 0 && !drain(self.output.writer(), hurry, signals).await {
            self.output.give_up();
        }
        self.output.error().map_or(Ok(()), Err)
    }

    fn show_batch(&mut self, first: Record) {
        let mut next = Some(first);
        while let Some(record) = next
            && self.left != Some(0)
        {
            self.show(&record);
            next = self.tracer.next_of_batch();
        }
    }

    fn show(&mut self, record: &Record) {
        if let Record::FirstDirty(event) = record
            && (!self.filter.accepts(event) || self.left == Some(0))
        {
            return self.flush_when_idle();
        }
        if let (Record::FirstDirty(_), Some(left)) = (record, &mut self.left) {
            *left -= 1;
        }
        self.output.record(record);
        self.flush_when_idle();
    }

    fn flush_when_idle(&mut self) {
        if !self.tracer.has_more() {
            self.output.flush();
        }
    }
}

/// The next record, if there is room for it. Else it waits in the kernel's buffer, which counts those that find no
/// room there.
async fn next(tracer: &mut Tracer, has_room: bool) -> Option<Record> {
    if has_room {
        tracer.next().await
    } else {
        match tracer.tend().await {}
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Writes what the kernel side has said.
async fn log_ready(logger: &mut Option<AsyncFd<Logger>>) {
    let Some(logger) = logger else {
        return pending().await;
    };
    if let Ok(mut ready) = logger.readable_mut().await {
        ready.clear_ready();
        ready.get_inner_mut().flush();
    }
}

/// What is traced, in words.
fn described(paths: &[PathBuf]) -> String {
    match paths {
        [] => "every regular file on filesystems with dirty tracking".to_owned(),
        [path] => printable(path.as_os_str().as_encoded_bytes()),
        several => format!("{} paths", several.len()),
    }
}

fn conclude(session: &Session, took: Duration) {
    let Summary {
        events,
        lost,
        retried,
        late,
        untracked,
        contended,
        unplaced,
        undecided,
    } = session.tracer.summary();
    let mut text = format!(
        "premod: {events} events, {lost} lost in {:.1} s",
        took.as_secs_f64()
    );
    for (count, what) in [
        (retried, "of the lost ones announced after all"),
        (late, "late (not before the modification)"),
        (untracked, "touches of inodes there was no room to track"),
        (
            contended,
            "moments of contention, in which track of a file was lost",
        ),
        (unplaced, "whose directory was not known"),
        (
            undecided,
            "of which nobody knows whether they are below a PATH",
        ),
    ] {
        if count > 0 {
            text.push_str(&format!("; {count} {what}"));
        }
    }
    let unwritten = session.output.unwritten();
    if unwritten > 0 {
        let name = printable(session.output.name().as_bytes());
        text.push_str(&format!(
            "; {unwritten} lines not written: whoever reads {name} stood still"
        ));
    }
    say!("{text}");
}
