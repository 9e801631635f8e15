//! Who watches while operations are measured: nobody, premod in different ways, and its peers.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{clock, detached::wait_until_detached, fill};

/// Somebody who watches.
pub(crate) struct Watcher {
    /// Its name in the tables.
    pub(crate) name: &'static str,
    /// Part of a quick run.
    pub(crate) quick: bool,
    /// The program and its arguments; `{inside}` is the directory of the file that is operated on, `{mount}`
    /// the filesystem's, `{outside}` one that does not hold the file, with a file
    /// of its own, `frozen`.
    command: &'static str,
    /// How many other inodes premod tracks meanwhile.
    tracked: u64,
    /// Runs on this kernel, or why not.
    possible: fn() -> Result<(), String>,
}

const fn premod(name: &'static str, command: &'static str) -> Watcher {
    Watcher {
        name,
        quick: true,
        command,
        tracked: 0,
        possible: always,
    }
}

const fn peer(name: &'static str, command: &'static str) -> Watcher {
    Watcher {
        quick: false,
        ..premod(name, command)
    }
}

fn always() -> Result<(), String> {
    Ok(())
}

/// Everybody, in the order of the tables. The first and the last are nobody: what the machine itself costs, and
/// whether that was the same at the end.
pub(crate) const WATCHERS: &[Watcher] = &[
    premod("nobody", ""),
    premod(
        "premod trace, everything",
        "premod trace --json -o /dev/null",
    ),
    premod(
        "premod trace, file inside",
        "premod trace --json -o /dev/null {inside}",
    ),
    premod(
        "premod trace, file outside",
        "premod trace --json -o /dev/null {outside}",
    ),
    Watcher {
        tracked: 1000,
        ..peer(
            "premod trace, 1,000 inodes tracked",
            "premod trace --json -o /dev/null {inside}",
        )
    },
    Watcher {
        tracked: 100_000,
        ..peer(
            "premod trace, 100,000 inodes tracked",
            "premod trace --json -o /dev/null {inside}",
        )
    },
    Watcher {
        tracked: 1_000_000,
        ..peer(
            "premod trace, 1,000,000 inodes tracked",
            "premod trace --json -o /dev/null {inside}",
        )
    },
    premod(
        "premod freeze, another file",
        "premod freeze --timeout 1h {outside}/frozen",
    ),
    peer("fanotify, FAN_MODIFY", "premod-bench listen modify {mount}"),
    Watcher {
        possible: crate::listener::has_pre_content,
        ..peer(
            "fanotify, FAN_PRE_ACCESS",
            "premod-bench listen pre-access {mount}",
        )
    },
    peer("inotifywait", "inotifywait -q -m -r -o /dev/null {mount}"),
    peer("fatrace", "fatrace -c"),
    premod("nobody, again", ""),
];

/// Where a watcher finds the files.
pub(crate) struct Place<'a> {
    pub(crate) mount: &'a Path,
    pub(crate) inside: &'a Path,
    pub(crate) outside: &'a Path,
}

/// A watcher at work; killed when dropped.
pub(crate) struct Watching(Option<Child>);

impl Watcher {
    /// Starts it, and returns when it watches; or why it cannot.
    pub(crate) fn start(&self, place: &Place<'_>) -> Result<Watching, String> {
        (self.possible)()?;
        let frozen = place.outside.join("frozen");
        let words = self.command.split_whitespace().map(|word| match word {
            "{mount}" => place.mount.as_os_str(),
            "{inside}" => place.inside.as_os_str(),
            "{outside}" => place.outside.as_os_str(),
            "{outside}/frozen" => frozen.as_os_str(),
            word => word.as_ref(),
        });
        let words: Vec<_> = words.collect();
        let [program, arguments @ ..] = words.as_slice() else {
            return Ok(Watching(None));
        };
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(place.mount)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("it cannot be run: {error}"))?;
        if *program == "premod" {
            wait_until_ready(&mut child);
        } else {
            // They do not say when they are ready.
            thread::sleep(Duration::from_secs(1));
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("it ended at once ({status})"));
        }
        if self.tracked > 0 {
            fill::inodes(self.tracked);
        }
        Ok(Watching(Some(child)))
    }
}

impl Watching {
    /// CPU time of the watcher so far.
    pub(crate) fn time(&self) -> Option<u64> {
        self.0.as_ref().map(|child| clock::process(child.id()))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let Some(child) = &mut self.0 else { return };
        let pid = rustix::process::Pid::from_child(child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let began = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if began.elapsed() > Duration::from_secs(20) {
                drop(child.kill());
            }
            thread::sleep(Duration::from_millis(20));
        }
        // The kernel takes programs and marks away in its own time.
        wait_until_detached();
        thread::sleep(Duration::from_millis(500));
    }
}

/// premod says so on stderr when nothing is missed any more.
pub(crate) fn wait_until_ready(child: &mut Child) {
    let mut stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
    let mut line = String::new();
    while !["premod: tracing", "premod: frozen"]
        .iter()
        .any(|ready| line.starts_with(ready))
    {
        line.clear();
        let length = stderr.read_line(&mut line).expect("stderr can be read");
        assert!(length > 0, "premod has ended: {line}");
    }
    // Kept open, and not read: a second thread would make every system call of ours cost more.
    child.stderr = Some(stderr.into_inner());
}
