//! A running `premod freeze` and what it says.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use serde_json::Value;

use super::process;

/// Longest wait for the files to be frozen.
const PATIENCE: Duration = Duration::from_secs(180);

/// Lines of stderr in a report of what went wrong.
const SAID: usize = 12;

/// premod, freezing.
pub(crate) struct Freeze {
    child: Child,
    lines: Receiver<Value>,
    said: Vec<Value>,
    stderr: Option<thread::JoinHandle<String>>,
}

/// How a freeze ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The lines of its JSON stream.
    pub(crate) lines: Vec<Value>,
    pub(crate) stderr: String,
}

impl Freeze {
    /// Runs `premod freeze --json` with these arguments.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new("premod")
            .args(["freeze", "--json"])
            .args(arguments)
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
                assert!(
                    value["schema"] == 1 && value["type"].is_string(),
                    "a record without schema or type: {line}"
                );
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let mut stderr = child.stderr.take().expect("stderr is a pipe");
        let stderr = Some(thread::spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).expect("stderr");
            String::from_utf8_lossy(&bytes).into_owned()
        }));
        Self {
            child,
            lines,
            said: Vec::new(),
            stderr,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until premod says that all files are frozen, and returns that record.
    pub(crate) fn frozen(&mut self) -> Value {
        self.hear("that the files are frozen", |line| {
            line["state"] == "frozen"
        })
    }

    /// Whether premod has said so already.
    pub(crate) fn is_frozen(&mut self) -> bool {
        self.said.extend(self.lines.try_iter());
        self.said.iter().any(|line| line["state"] == "frozen")
    }

    /// Waits for a record, which has to come.
    pub(crate) fn hear(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        if let Some(value) = self.seek(is) {
            return value;
        }
        let _ = self.child.kill();
        let stderr = self.stderr.take().map(thread::JoinHandle::join);
        panic!("premod did not say {what} but {stderr:?}");
    }

    /// Waits for a record; `None` if premod has ended without it.
    pub(crate) fn seek(&mut self, is: impl Fn(&Value) -> bool) -> Option<Value> {
        while let Ok(value) = self.lines.recv_timeout(PATIENCE) {
            self.said.push(value.clone());
            if is(&value) {
                return Some(value);
            }
        }
        None
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        process::wait(&mut self.child)
    }

    /// How it ended, when it has.
    pub(crate) fn end(mut self) -> Ended {
        let status = self.wait();
        self.said.extend(self.lines.iter());
        let stderr = self.stderr.take().expect("it is there until the end");
        Ended {
            status,
            lines: self.said,
            stderr: stderr.join().expect("the reader of stderr"),
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        process::signal(self.pid(), signal);
    }
}

impl Ended {
    /// The exit code, which has to be this one.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self
    }
}

impl std::fmt::Debug for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A whole report may be of hundreds of files; what went wrong stands in the end.
        let mut said: Vec<&str> = self.stderr.lines().collect();
        let unsaid = said.len().saturating_sub(SAID);
        said.drain(..unsaid);
        write!(f, "{}: {}", self.status, said.join("\n"))
    }
}
