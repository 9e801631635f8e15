//! A process that changes files in one way, when it is told to. It is one of its own, because a freeze stops it.

use std::{
    fs::File,
    hash::{DefaultHasher, Hasher},
    io::{BufRead, BufReader, Write},
    os::{fd::AsRawFd, unix::process::CommandExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
};

use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};

use super::process;
use crate::{
    coverage::{self, Effect},
    harness::Place,
};

/// `act WAY DIRECTORY OUTSIDE FILESYSTEM`: sets everything up, says which files it will change, and changes them
/// each time that a line comes.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let [way, directory, outside, filesystem] = arguments else {
        return ExitCode::from(2);
    };
    let place = Place {
        directory: directory.into(),
        outside: outside.into(),
        given: PathBuf::new(),
        filesystem: filesystem.clone(),
        lsm: true,
    };
    let mut change = match coverage::way(way)(&place) {
        Ok(change) => change,
        Err(why) => {
            say(&json!({"none": why}));
            return ExitCode::SUCCESS;
        }
    };
    let files: Vec<Value> = change
        .files
        .iter()
        .map(|target| {
            let path = if target.path.exists() {
                target.path.clone()
            } else {
                // It was unlinked.
                let (own, fd) = (std::process::id(), target.file.as_raw_fd());
                PathBuf::from(format!("/proc/{own}/fd/{fd}"))
            };
            let effect = match target.effect {
                Effect::Changes => "changes",
                Effect::Keeps => "keeps",
                Effect::None => "none",
            };
            json!({"path": path, "effect": effect})
        })
        .collect();
    say(&json!({"files": files, "ops": change.ops}));
    std::panic::set_hook(Box::new(|_| {}));
    for (number, _) in std::io::stdin().lines().enumerate() {
        let made = catch_unwind(AssertUnwindSafe(|| (change.make)(number as u64)));
        say(&match made {
            Ok(()) => json!({"ok": true}),
            Err(panic) => json!({"ok": false, "error": crate::harness::message(&*panic)}),
        });
    }
    ExitCode::SUCCESS
}

fn say(value: &Value) {
    println!("{value}");
}

/// A file that an actor changes.
pub(crate) struct Victim {
    pub(crate) path: String,
    pub(crate) changes: bool,
    /// What was in it when somebody last looked.
    seen: u64,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was made.
    Made,
    /// It was refused; the message names the errno.
    Refused(String),
    /// Somebody was stopped.
    Held,
    /// Neither: it waits somewhere.
    Waits,
}

/// An actor, as the test sees it.
pub(crate) struct Actor {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<Value>,
    pub(crate) files: Vec<Victim>,
    /// What it does are stores through a mapping.
    pub(crate) stores: bool,
    /// What it does changes no byte at all.
    pub(crate) silent: bool,
}

/// An actor that is setting everything up.
pub(crate) struct Starting {
    way: String,
    child: Child,
    orders: ChildStdin,
    answers: Receiver<Value>,
}

impl Actor {
    /// Starts it; `None` if its way does not exist here.
    pub(crate) fn start(way: &str, place: &Place) -> Option<Self> {
        Self::spawn(way, place).ready()
    }

    /// Starts it, and does not wait until it is ready.
    pub(crate) fn spawn(way: &str, place: &Place) -> Starting {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["act", way])
            .args([&place.directory, &place.outside])
            .arg(&place.filesystem)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // SAFETY: a system call, which touches no memory of the parent.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut child = command.spawn().expect("an actor");
        let orders = child.stdin.take().expect("stdin is a pipe");
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).expect("JSON");
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        Starting {
            way: way.to_owned(),
            child,
            orders,
            answers,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to change its files.
    pub(crate) fn order(&mut self) {
        self.orders.write_all(b"go\n").expect("the actor lives");
    }

    /// What has come of it so far.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.answers.try_recv() {
            Ok(answer) if answer["ok"] == true => Outcome::Made,
            Ok(answer) => Outcome::Refused(answer["error"].as_str().unwrap_or_default().to_owned()),
            Err(TryRecvError::Disconnected) => Outcome::Refused("the actor has ended".to_owned()),
            Err(TryRecvError::Empty) => {
                let own = self.child.id();
                let stopped = process::is_stopped(own)
                    || process::children(own, "")
                        .into_iter()
                        .any(process::is_stopped);
                if stopped {
                    Outcome::Held
                } else {
                    Outcome::Waits
                }
            }
        }
    }

    /// Looks at its files; says which of them are not what they were when somebody looked before.
    pub(crate) fn look(&mut self) -> Vec<bool> {
        let look = |victim: &mut Victim| {
            let mut hasher = DefaultHasher::new();
            let mut file = File::open(&victim.path).expect("open");
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut file, &mut bytes).expect("read");
            hasher.write(&bytes);
            let before = std::mem::replace(&mut victim.seen, hasher.finish());
            before != victim.seen
        };
        self.files.iter_mut().map(look).collect()
    }
}

impl Starting {
    /// Waits until everything is set up; `None` if the way does not exist here.
    pub(crate) fn ready(self) -> Option<Actor> {
        let Self {
            way,
            mut child,
            orders,
            answers,
        } = self;
        let about: Value = answers
            .recv()
            .unwrap_or_else(|_| panic!("{way} does not begin"));
        let Some(files) = about["files"].as_array() else {
            let _ = child.wait();
            return None;
        };
        let files: Vec<Victim> = files
            .iter()
            .map(|file| Victim {
                path: file["path"].as_str().expect("a path").to_owned(),
                changes: file["effect"] == "changes",
                seen: 0,
            })
            .collect();
        let silent = about["files"][0]["effect"] == "none";
        Some(Actor {
            child,
            orders,
            answers,
            files,
            stores: about["ops"] == json!(["mmap"]),
            silent,
        })
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
