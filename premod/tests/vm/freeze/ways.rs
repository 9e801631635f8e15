//! Every way to change a file (those of docs/coverage.md) against a freeze: held, it happens after the thaw;
//! denied, it fails with EBUSY; and until the thaw no byte changes.
//!
//! All files of all ways and filesystems are frozen together, because premod takes seconds to start under
//! emulation. What cannot be prevented has to be reported: the freeze is violated, and names the file.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    actor::{Actor, Outcome},
    premod::{Ended, Freeze},
};
use crate::harness::{Place, kernel_at_least};

/// What may happen although the file is frozen, and is reported then.
const NOT_PREVENTED: [&str; 8] = [
    // The kernel stores on behalf of a process, and has done so before that is stopped.
    "process_vm_writev into a mapping",
    "write to /proc/PID/mem",
    "ptrace poke into a mapping",
    "read into a mapping",
    "read with O_DIRECT into a mapping",
    "io_uring read into pages pinned before",
    // From 6.12 on overlayfs asks no security module about the upper file (kernel-facts).
    "overlayfs: splice",
    // No byte changes, but CMD may find another file at the path.
    "silent: rename and link",
];
/// Files below a loop device are refused, and so are those of a filesystem that the test disk cannot be.
const REFUSED: [&str; 4] = [
    "loop device",
    "loop device with direct I/O",
    "XFS_IOC_EXCHANGE_RANGE (both files)",
    "XFS_IOC_COMMIT_RANGE (both files)",
];
/// Whoever has not been held or answered after this waits for the NFS server to answer something else.
const DECIDED: Duration = Duration::from_secs(20);
/// The NFS client asks again after 15 seconds at most.
const ANSWERED: Duration = Duration::from_secs(60);

/// How a freeze treats writers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Hold,
    Deny,
}

/// A way on one filesystem.
struct Trial {
    way: &'static str,
    /// Where its problems go.
    number: usize,
    actor: Actor,
    outcome: Outcome,
}

/// Goes all ways, and says what is wrong with each.
pub(crate) fn problems(places: &[(&'static str, Place)]) -> Vec<Vec<String>> {
    let mut problems = vec![Vec::new(); places.len()];
    let wanted = places
        .iter()
        .enumerate()
        .filter(|(_, (way, _))| !REFUSED.contains(way));
    // All at once, for they wait for the disks; but the first that needs the NFS server starts it.
    let (alone, together): (Vec<_>, Vec<_>) =
        wanted.partition(|(_, (way, _))| way.starts_with("nfsd"));
    let starting: Vec<_> = together
        .into_iter()
        .map(|(number, (way, place))| (number, *way, Actor::spawn(way, place)))
        .collect();
    let started = starting
        .into_iter()
        .map(|(number, way, starting)| (number, way, starting.ready()));
    let alone = alone
        .into_iter()
        .map(|(number, (way, place))| (number, *way, Actor::start(way, place)));
    let mut trials: Vec<Trial> = started
        .chain(alone)
        .filter_map(|(number, way, actor)| {
            Some(Trial {
                way,
                number,
                actor: actor?,
                outcome: Outcome::Waits,
            })
        })
        .collect();
    if !trials.is_empty() {
        rustix::fs::sync();
        for mode in [Mode::Hold, Mode::Deny] {
            run(&mut trials, mode, &mut problems);
        }
    }
    problems
}

/// One freeze, and every way tried once.
fn run(trials: &mut [Trial], mode: Mode, problems: &mut [Vec<String>]) {
    let word = mode.option();
    // Not stopped beforehand, so that each store is made, and met.
    let mut words = vec![word, "--mmap", "hold", "--timeout", "120s"];
    for trial in trials.iter() {
        words.extend(trial.actor.files.iter().map(|file| file.path.as_str()));
    }
    let began = Instant::now();
    let mut freeze = Freeze::start(&words);
    freeze.frozen();
    eprintln!("{word}: frozen after {:?}", began.elapsed());
    for trial in trials.iter_mut() {
        trial.actor.look();
        trial.actor.order();
    }
    wait(trials, DECIDED, |trial| {
        trial.outcome == Outcome::Waits && !trial.way.starts_with("nfsd")
    });
    let changed: Vec<bool> = trials
        .iter_mut()
        .map(|trial| trial.actor.look().contains(&true))
        .collect();
    eprintln!("{word}: decided after {:?}", began.elapsed());
    freeze.signal(Signal::TERM);
    let ended = freeze.end();
    let code = ended.status.code();
    assert!(code == Some(0) || code == Some(17), "{ended:?}");
    for (trial, changed) in trials.iter_mut().zip(&changed) {
        let mut say = |problem: String| problems[trial.number].push(format!("{word}: {problem}"));
        if let Some(problem) = trial.judge(mode, *changed) {
            say(problem);
        }
        let violations = trial.violations(&ended);
        if !violations.is_empty() && code != Some(17) {
            say(format!("violated, and ended with {code:?}"));
        }
        // Of what the kernel has skipped premod cannot say which file it was about.
        let all = ended.lines.iter().filter(|line| line["type"] == "violated");
        let reasons: Vec<_> = all.filter_map(|line| line["why"].as_str()).collect();
        let skipped = reasons.iter().any(|why| why.contains("skipped"));
        if *changed && violations.is_empty() && !skipped {
            say(format!(
                "a byte changed, and premod did not say so, but {code:?}, {reasons:?}"
            ));
        }
        if (*changed || !violations.is_empty()) && !NOT_PREVENTED.contains(&trial.way) {
            say(format!(
                "a byte changed ({changed}), or may have: {violations:?}"
            ));
        }
    }
    let pending = |trial: &Trial| matches!(trial.outcome, Outcome::Held | Outcome::Waits);
    wait(trials, ANSWERED, pending);
    eprintln!("{word}: answered after {:?}", began.elapsed());
    for trial in trials.iter_mut() {
        let changed_in_the_end = trial.actor.look();
        let mut say = |problem: String| problems[trial.number].push(format!("{word}: {problem}"));
        match &trial.outcome {
            Outcome::Made => {
                let victims = trial.actor.files.iter().zip(&changed_in_the_end);
                let unchanged = victims.filter(|(victim, changed)| victim.changes && !**changed);
                if unchanged.count() > 0 && !NOT_PREVENTED.contains(&trial.way) {
                    say("it succeeded, and no byte has changed".to_owned());
                }
            }
            Outcome::Refused(_) if mode == Mode::Deny => {
                if changed_in_the_end.contains(&true) {
                    say("it was refused, and a byte has changed".to_owned());
                }
            }
            Outcome::Refused(error) if is_again(trial.way, error) => {}
            outcome => say(format!("after the thaw: {outcome:?}")),
        }
        trial.outcome = Outcome::Waits;
    }
}

/// Asks the actors until none of those that have not answered `is` to be waited for.
fn wait(trials: &mut [Trial], patience: Duration, is: impl Fn(&Trial) -> bool) {
    let deadline = Instant::now() + patience;
    loop {
        for trial in trials.iter_mut() {
            if !matches!(trial.outcome, Outcome::Made | Outcome::Refused(_)) {
                trial.outcome = trial.actor.outcome();
            }
        }
        if !trials.iter().any(&is) || Instant::now() > deadline {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The documented rule for `io_uring`: the request fails with EAGAIN, and is to be submitted again. On 6.1 with
/// ECANCELED if the kernel could not start a worker for it, because the process was about to stop.
fn is_again(way: &str, error: &str) -> bool {
    let canceled = !kernel_at_least(6, 12) && error.contains("Some(-125)");
    way.starts_with("io_uring") && (error.contains("Some(-11)") || canceled)
}

/// EBUSY, as the ways' messages show it. A child says only that it has failed.
fn is_busy(error: &str) -> bool {
    ["code: 16", "os error 16", "Some(-16)", "the child failed"]
        .iter()
        .any(|busy| error.contains(busy))
}

impl Mode {
    const fn option(self) -> &'static str {
        match self {
            Self::Hold => "--hold",
            Self::Deny => "--deny",
        }
    }
}

impl Trial {
    /// What premod says about its files.
    fn violations<'a>(&self, ended: &'a Ended) -> Vec<&'a Value> {
        let lines = ended.lines.iter();
        let violations = lines.filter(|line| line["type"] == "violated");
        let ours = |line: &&Value| {
            self.actor
                .files
                .iter()
                .any(|file| line["path"] == *file.path)
        };
        violations.filter(ours).collect()
    }

    /// What is wrong with what happened while the file was frozen.
    fn judge(&self, mode: Mode, changed: bool) -> Option<String> {
        let fine = match &self.outcome {
            // Reading, looking and changing attributes pass at once. To share equal blocks changes no byte,
            // but it is a change of the file's blocks.
            Outcome::Made if self.actor.silent => true,
            Outcome::Refused(error) if self.way == "FIDEDUPERANGE" => is_busy(error),
            Outcome::Held if self.way == "FIDEDUPERANGE" => mode == Mode::Hold,
            _ if self.actor.silent => false,
            // It was too late for that, and premod has said so.
            Outcome::Made => changed,
            // There is no errno for a store, but there is for a mapping.
            Outcome::Held => mode == Mode::Hold || self.actor.stores,
            Outcome::Refused(error) if mode == Mode::Hold => is_again(self.way, error),
            // The server's client gets an errno of its own.
            Outcome::Refused(error) => is_busy(error) || self.way.starts_with("nfsd"),
            Outcome::Waits => self.way.starts_with("nfsd"),
        };
        (!fine).then(|| format!("while it was frozen: {:?}", self.outcome))
    }
}
