//! A server's own client, fed through a pipe.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

/// Longest wait for an answer: a freeze is shorter.
const PATIENCE: Duration = Duration::from_secs(180);
/// What the client prints when all that it was asked is done.
const DONE: &str = "premod-done";

/// A connection.
pub(crate) struct Client {
    child: Child,
    answers: Receiver<String>,
}

impl Client {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client can be run");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                if sender.send(line.expect("stdout is UTF-8")).is_err() {
                    return;
                }
            }
        });
        Self { child, answers }
    }

    /// Sends statements, and waits until the last is done. The client ends at the first error.
    pub(crate) fn ask(&mut self, statements: &str) -> Result<Vec<String>, String> {
        let input = self.child.stdin.as_mut().expect("stdin is a pipe");
        let sent = writeln!(input, "{statements} SELECT '{DONE}';").and_then(|()| input.flush());
        sent.map_err(|error| format!("the client has ended: {error}"))?;
        let mut lines = Vec::new();
        loop {
            match self.answers.recv_timeout(PATIENCE) {
                Ok(line) if line == DONE => return Ok(lines),
                Ok(line) => lines.push(line),
                Err(error) => return Err(format!("no answer to {statements}: {error}")),
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
