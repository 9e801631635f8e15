//! `premod trace`

use std::{ffi::OsString, future::pending, path::PathBuf, time::Duration};

use anyhow::Result;
use aya_log::EbpfLogger;
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::Child,
    time::{Instant, sleep_until},
};

use super::{child, signals::Signals};
use crate::{
    Summary, Tracer,
    events::Record,
    exit_code::Failed,
    kernel::{caps, detach},
    output::{Filter, Form, Output, OutputError, printable},
};

/// What `premod trace` was asked to do.
#[derive(Debug)]
pub struct Settings {
    /// Files and directories; all files if there is none.
    pub paths: Vec<PathBuf>,
    /// CMD and its arguments; empty if there is none.
    pub command: Vec<OsString>,
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
    /// What the kernel side may say.
    pub kernel_log_level: u8,
    /// Which events are shown.
    pub filter: Filter,
}

/// Why a trace ended.
enum End {
    /// A signal, the time limit, or the number of events.
    Asked,
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
    let output = Output::open(settings.output.as_deref(), settings.form).map_err(Failed::from)?;
    let mut tracer = Tracer::builder()
        .paths(settings.paths.iter().cloned())
        .buffer_size(settings.buffer_size)
        .period(settings.period)
        .include_own(settings.own)
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
    let signals = Signals::listen()?;
    // CMD gets the capabilities that premod was started with; premod itself needs few from here on.
    let own_stdout_is_data = settings.output.is_none();
    let mut command = child::start(&settings.command, own_stdout_is_data)?;
    caps::drop_all_but_needed()?;
    tracing::info!("{} hooks are attached", tracer.attachments().len());

    say!("premod: tracing {}", described(&settings.paths));

    let began = Instant::now();
    let mut session = Session {
        tracer,
        output,
        filter: settings.filter,
        left: settings.events,
        logger,
    };
    let deadline = settings.duration.map(|duration| began + duration);
    let end = match session.begin() {
        Ok(()) => session.follow(deadline, &mut command, signals).await?,
        Err(error) => End::Output(error),
    };
    let written = session.finish(&end).await;
    conclude(&session.tracer.summary(), began.elapsed());
    detach::behind(|| drop(session));

    let status = match (end, command) {
        (End::Command(status), _) => status,
        (_, Some(mut running)) => child::status(running.wait().await?),
        _ => 0,
    };
    match written {
        Ok(()) | Err(OutputError::Closed) => Ok(status),
        Err(error) => Err(Failed::from(error).into()),
    }
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
    /// From here on nothing is missed, and the header says so.
    fn begin(&mut self) -> Result<(), OutputError> {
        self.output.begin()
    }

    /// Shows records until something ends the trace.
    async fn follow(
        &mut self,
        deadline: Option<Instant>,
        command: &mut Option<Child>,
        mut signals: Signals,
    ) -> Result<End> {
        let mut forwarded = false;
        loop {
            tokio::select! {
                // In this order: what has happened is shown before the end is acted upon.
                biased;
                record = self.tracer.next() => {
                    let Some(record) = record else { return Ok(End::Asked) };
                    if let Err(error) = self.show_batch(record) {
                        return Ok(End::Output(error));
                    }
                    if self.left == Some(0) {
                        return Ok(End::Asked);
                    }
                }
                status = child::ended(command) => return Ok(End::Command(child::status(status?))),
                signal = signals.next() => match command {
                    // The first is CMD's: what it still writes belongs to the trace.
                    Some(running) if !forwarded => {
                        child::send(running, signal);
                        forwarded = true;
                    }
                    _ => return Ok(End::Asked),
                },
                () = passed(deadline) => return Ok(End::Asked),
                () = log_ready(&mut self.logger) => {}
            }
        }
    }

    /// Stops, shows what is left, and ends the output.
    async fn finish(&mut self, end: &End) -> Result<(), OutputError> {
        self.tracer.stop();
        if let Some(logger) = &mut self.logger {
            logger.get_mut().flush();
        }
        if let End::Output(error) = end {
            return match error {
                OutputError::Closed => Err(OutputError::Closed),
                OutputError::Write { to, source } => Err(OutputError::Write {
                    to: to.clone(),
                    source: std::io::Error::new(source.kind(), source.to_string()),
                }),
            };
        }
        while let Some(record) = self.tracer.next().await {
            self.show(&record)?;
        }
        self.output.finish(&self.tracer.summary())
    }

    fn show_batch(&mut self, first: Record) -> Result<(), OutputError> {
        let mut next = Some(first);
        while let Some(record) = next
            && self.left != Some(0)
        {
            self.show(&record)?;
            next = self.tracer.next_of_batch();
        }
        Ok(())
    }

    fn show(&mut self, record: &Record) -> Result<(), OutputError> {
        if let Record::FirstDirty(event) = record {
            if !self.filter.accepts(event) || self.left == Some(0) {
                return self.flush_when_idle();
            }
            self.left = self.left.map(|left| left - 1);
        }
        self.output.record(record)?;
        self.flush_when_idle()
    }

    fn flush_when_idle(&mut self) -> Result<(), OutputError> {
        if self.tracer.has_more() {
            Ok(())
        } else {
            self.output.flush()
        }
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

fn conclude(summary: &Summary, took: Duration) {
    let Summary {
        events,
        lost,
        retried,
        late,
        untracked,
        unplaced,
    } = *summary;
    let mut text = format!(
        "premod: {events} events, {lost} lost in {:.1} s",
        took.as_secs_f64()
    );
    for (count, what) in [
        (retried, "of the lost ones announced after all"),
        (late, "late (not before the modification)"),
        (untracked, "touches of inodes there was no room to track"),
        (unplaced, "whose directory was not known"),
    ] {
        if count > 0 {
            text.push_str(&format!("; {count} {what}"));
        }
    }
    say!("{text}");
}
