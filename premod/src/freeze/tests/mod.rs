//! What the tests share: a run directory of their own, and an engine that freezes nothing.

mod claims;
mod clients;
mod hostile;
mod reports;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    control::{Incoming, Request, Server},
    registry::Registry,
    report::{
        Argv, CommName, CommandReport, FileReport, Held, PathName, SetReport, SetType, State,
        Violation, Violations,
    },
};
use crate::events::{Device, MonotonicNs, Op, Pid, Tid};

/// A directory for one test.
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
}

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("premod-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self { path }
    }

    /// A new file.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::write(&path, name).unwrap();
        path
    }

    /// Where the run directory is.
    fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    pub(crate) fn registry(&self) -> Registry {
        registry(&self.run())
    }

    /// What is in the run directory, but for the directory of the locks.
    fn leftovers(&self) -> Vec<PathBuf> {
        let names = |directory: PathBuf| {
            let entries = std::fs::read_dir(directory).unwrap();
            entries.map(|entry| entry.unwrap().path())
        };
        let locks = self.run().join("locks");
        let mut all: Vec<_> = names(self.run()).chain(names(locks.clone())).collect();
        all.retain(|path| *path != locks);
        all.sort();
        all
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn registry(run: &Path) -> Registry {
    Registry::open_in(run, user()).unwrap()
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// An engine: answers requests as it was told to.
pub(crate) struct Engine {
    task: JoinHandle<Vec<Request>>,
    stop: oneshot::Sender<()>,
}

/// Lets `answer` answer; where it says `None` the reply is dropped.
pub(crate) fn answering(
    mut server: Server,
    answer: impl Fn(Request) -> Option<SetReport> + Send + 'static,
) -> Engine {
    let (stop, mut stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                Incoming { request, reply } = server.next() => {
                    asked.push(request);
                    if let Some(report) = answer(request) {
                        reply.send(&report);
                    }
                }
            }
        }
        server.finish().await;
        asked
    });
    Engine { task, stop }
}

impl Engine {
    /// Ends it; returns what it was asked.
    pub(crate) async fn end(self) -> Vec<Request> {
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }
}

/// A report with everything in it and so many violations.
pub(crate) fn report(violations: u64) -> SetReport {
    let timestamp = "2026-11-22T16:31:00.123456789Z".parse().unwrap();
    let path = PathName(bytes::Bytes::from_static(b"/srv/db/heap"));
    let comm = CommName(bytes::Bytes::from_static(b"postgres"));
    let (pid, tid) = (Pid(4242), Tid(4243));
    let mut all = Violations::default();
    for _ in 0..violations {
        all.add(Violation {
            timestamp,
            path: Some(path.clone()),
            op: Some(Op::Mmap),
            pid: Some(pid),
            tid: Some(tid),
            comm: Some(comm.clone()),
            why: "the kernel stored on behalf of the process".to_owned(),
        });
    }
    SetReport {
        took_ns: Some(12_345_678),
        generation: Some(1),
        schema: SetReport::SCHEMA,
        r#type: SetType::Freeze,
        pid: Pid(4711),
        state: State::Frozen,
        mode: premod_common::guard::Mode::Deny,
        errno: Some("EBUSY".to_owned()),
        mmap: premod_common::guard::MmapPolicy::Hold,
        began: timestamp,
        deadline_mono_ns: MonotonicNs(60_000_000_000),
        remaining_ns: 47_650_000_000,
        files: vec![FileReport {
            path: path.clone(),
            device: Device {
                major: 259,
                minor: 2,
            },
            inode: 131,
            generation: Some(9),
        }],
        held: vec![Held {
            pid,
            tid,
            comm,
            op: Some(Op::Mmap),
            path: Some(path),
            for_ns: 3_200_000_000,
            stopped_by_others: false,
        }],
        refused: 2,
        killed: 0,
        violations: all,
        command: Some(CommandReport {
            pid: Pid(4712),
            argv: Argv(vec!["cp".into(), "/srv/db/heap".into(), "/backup".into()]),
        }),
    }
}
