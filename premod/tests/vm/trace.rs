//! A running `premod trace --json` and what it has said.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

/// Longest wait for anything premod has to say. Emulation is slow; a hang is still a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// premod, tracing.
pub(crate) struct Trace {
    child: Child,
    lines: Receiver<Value>,
    sentinel: PathBuf,
    sentinels: u32,
    /// How many sentinels were announced by a repetition.
    pub(crate) sentinels_retried: u64,
    /// The records of programs that the kernel skipped.
    pub(crate) skips: Vec<Value>,
    /// Late events that a test has provoked on purpose.
    pub(crate) provoked: u64,
    stderr: thread::JoinHandle<String>,
}

/// How a trace ended.
pub(crate) struct Ended {
    /// Everything after the last sentinel.
    pub(crate) events: Vec<Value>,
    pub(crate) summary: Value,
    pub(crate) stderr: String,
    /// Programs that the kernel skipped, from beginning to end.
    pub(crate) skipped: u64,
}

impl Trace {
    /// Traces `directory`, and returns when nothing is missed any more.
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_with(directory, &[directory.to_str().expect("a plain path")])
    }

    /// Runs `premod trace --json` with these arguments. `directory` has to be traced: it is where the
    /// sentinels are written.
    pub(crate) fn start_with(directory: &Path, arguments: &[&str]) -> Self {
        Self::run(directory, arguments, &[])
    }

    /// As [`Trace::start`], as if the kernel did not have these functions.
    pub(crate) fn start_hiding(directory: &Path, functions: &str) -> Self {
        let path = directory.to_str().expect("a plain path");
        Self::run(
            directory,
            &[path],
            &[("PREMOD_HIDDEN_FUNCTIONS", functions)],
        )
    }

    fn run(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new("premod")
            .args(["trace", "--json"])
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("premod can be run");
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line = line.expect("stdout is UTF-8");
                assert!(!line.chars().any(char::is_control), "raw: {line:?}");
                let value: Value = serde_json::from_str(&line)
                    .unwrap_or_else(|error| panic!("not JSON: {error}: {line}"));
                assert!(value.is_object(), "not an object: {line}");
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let said = wait_until_tracing(&mut stderr);
        let stderr = thread::spawn(move || {
            let mut text = said;
            stderr.read_to_string(&mut text).expect("stderr is UTF-8");
            text
        });
        let sentinel = directory.join("sentinel");
        Self {
            child,
            lines,
            sentinel,
            sentinels: 0,
            sentinels_retried: 0,
            skips: Vec::new(),
            provoked: 0,
            stderr,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All events so far. A file of our own is written last, and the stream is in order: when its event
    /// has come, so have all before it. If the buffer was full, it is written again.
    pub(crate) fn events(&mut self) -> Vec<Value> {
        self.sentinels += 1;
        let sentinel = self.sentinel.with_extension(self.sentinels.to_string());
        let deadline = Instant::now() + PATIENCE;
        let mut events = Vec::new();
        while Instant::now() < deadline {
            let mut file = File::options()
                .create(true)
                .append(true)
                .open(&sentinel)
                .expect("the sentinel can be opened");
            file.write_all(b"done")
                .expect("the sentinel can be written");
            while let Ok(value) = self.lines.recv_timeout(Duration::from_secs(5)) {
                if value["type"] == "first_dirty" && is_about(&value, &file, &sentinel) {
                    self.sentinels_retried += u64::from(value["retried"] == true);
                    return events;
                }
                if !self.is_skip(&value) {
                    events.push(value);
                }
            }
        }
        panic!("premod did not report the sentinel within {PATIENCE:?}; before it: {events:?}");
    }

    /// Whether the record says that the kernel skipped a program. That happens on preemptible kernels
    /// whatever premod does; it has to be reported, and it is no event.
    fn is_skip(&mut self, record: &Value) -> bool {
        let skip = record["type"] == "lost" && record["reason"] == "recursion";
        if skip {
            assert!(
                record["hook"].is_string() && record["cpu"].is_null(),
                "{record}"
            );
            self.skips.push(record.clone());
        }
        skip
    }

    /// How many programs the kernel has skipped, as premod has reported so far.
    pub(crate) fn skipped(&self) -> u64 {
        let counts = self.skips.iter().map(|skip| skip["count"].as_u64());
        counts.map(|count| count.expect("a count")).sum()
    }

    /// Interrupts premod, which has to end cleanly.
    pub(crate) fn end(mut self) -> Ended {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("premod runs");
        let status = wait(&mut self.child);
        let mut records: Vec<Value> = self.lines.iter().collect();
        let summary = records.pop().expect("a summary");
        let events = records
            .into_iter()
            .filter(|record| !self.is_skip(record))
            .collect();
        let skipped = self.skipped();
        let stderr = self.stderr.join().expect("the reader of stderr");
        assert!(status.success(), "premod ended with {status}: {stderr}");
        assert_eq!(summary["type"], "summary", "the last line");
        Ended {
            events,
            summary,
            stderr,
            skipped,
        }
    }

    /// As [`Trace::end`], for a trace in which nothing may have been lost or late.
    pub(crate) fn end_cleanly(self) {
        let provoked = self.provoked;
        let ended = self.end();
        let summary = &ended.summary;
        assert_eq!(
            summary["lost"], ended.skipped,
            "{summary} {:?}",
            ended.events
        );
        assert_eq!(summary["untracked"], 0, "{summary}");
        assert_eq!(summary["unplaced"], 0, "{summary}");
        // Without the program that should have come before, the net is all there is.
        assert!(
            summary["late"].as_u64() <= Some(ended.skipped + provoked),
            "{summary} {:?}",
            ended.events
        );
    }
}

/// Reads stderr until premod says that it traces.
fn wait_until_tracing(stderr: &mut BufReader<ChildStderr>) -> String {
    let mut said = String::new();
    loop {
        let before = said.len();
        let read = stderr.read_line(&mut said).expect("stderr is UTF-8");
        assert!(read > 0, "premod ended at once: {said}");
        if said[before..].starts_with("premod: tracing ") {
            return said;
        }
    }
}

/// Waits for a child, but not for ever.
pub(crate) fn wait(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("premod did not end");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The path of an event, exactly.
pub(crate) fn path_of(event: &Value) -> PathBuf {
    let bytes = match event["path_raw"].as_str() {
        Some(raw) => STANDARD.decode(raw).expect("base64"),
        None => event["path"].as_str().expect("a path").as_bytes().to_vec(),
    };
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}

/// Whether an event is about an open file, however its hook knew the path: one that comes from a page does
/// not know the mount.
fn is_about(event: &Value, file: &File, path: &Path) -> bool {
    let number = file.metadata().expect("fstat").ino();
    event["inode"] == number && path_of(event).file_name() == path.file_name()
}

/// The paths of events, in their order.
pub(crate) fn paths_of(events: &[Value]) -> Vec<PathBuf> {
    events.iter().map(path_of).collect()
}

/// The events about one file.
pub(crate) fn about<'a>(events: &'a [Value], path: &Path) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| event["type"] == "first_dirty" && path_of(event) == path)
        .collect()
}
