//! The keeper: a process that continues what premod has stopped, whatever becomes of premod.
//!
//! It holds the maps of one freeze and a pipe. When premod closes the pipe, or dies, or the deadline passes,
//! it opens the switch, waits until all hooks obey, and continues everybody. If the keeper is killed too, the
//! maps stay pinned in the BPF filesystem, and [`recover`] does its work.

use std::{
    fs,
    io::{self, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use premod_common::guard::{HeldProcess, Phase};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{
    guards::Controls,
    namespaces,
    others::Others,
    pins::{self, Pins},
    processes::{TICK, started},
};
use crate::{
    error::Error,
    events::{self, Pid},
};

/// How often the keeper looks at the deadline, and whether premod lives.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// Longest wait for a keeper's report.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who was let go, and who was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Process ids and names of those that run again.
    pub continued: Vec<(Pid, Bytes)>,
    /// Those that stay stopped, and why.
    pub left: Vec<(Pid, Bytes, String)>,
}

/// Why premod leaves a process stopped.
const STOPPED_BY_OTHERS: &str = "somebody else has stopped it, too";
const HELD_BY_OTHERS: &str = "another premod holds it, too";

/// What became of one held process.
enum Outcome {
    Continued,
    /// It has ended.
    Gone,
    Left(&'static str),
}

/// Continues one process, if it is still the one that was stopped and nobody else has stopped it.
pub(crate) fn let_go(pid: u32, held: &HeldProcess, others: &Others) {
    let _ = try_let_go(pid, held, others);
}

fn try_let_go(pid: u32, held: &HeldProcess, others: &Others) -> Outcome {
    let Some(process) = rustix::process::Pid::from_raw(pid as i32) else {
        return Outcome::Gone;
    };
    // First the descriptor, then the look: it cannot become another process in between.
    let Ok(process) = pidfd_open(process, PidfdFlags::empty()) else {
        return Outcome::Gone;
    };
    if started(pid) != Some(held.started / TICK) {
        return Outcome::Gone;
    }
    if others.hold(pid, held.started) {
        return Outcome::Left(HELD_BY_OTHERS);
    }
    let by_others = Signal::from_named_raw(held.stopped_by_others.into());
    if by_others == Some(Signal::STOP) {
        return Outcome::Left(STOPPED_BY_OTHERS);
    }
    match pidfd_send_signal(&process, Signal::CONT) {
        Ok(()) => {
            // What the terminal has sent meanwhile is gone by that. It knows best what to do with it: to stop, to handle
            // or to ignore it.
            if let Some(signal) = by_others {
                let _ = pidfd_send_signal(&process, signal);
            }
            Outcome::Continued
        }
        Err(rustix::io::Errno::SRCH) => Outcome::Gone,
        Err(_) => Outcome::Left("the kernel does not let it be continued"),
    }
}

/// Opens the switch and continues everybody. The maps are pinned in this directory.
pub(crate) fn release(controls: &mut Controls, own: &Path) -> Recovered {
    let complain = |result: Result<(), Error>| {
        if let Err(error) = result {
            tracing::error!("{error}");
        }
    };
    let mut released = Recovered::default();
    complain(controls.order(Phase::Open, 0));
    // At once whoever is noted, then whoever a hook was still about to stop.
    released.add(continue_all(controls, own));
    complain(controls.wait_until_obeyed());
    released.add(continue_all(controls, own));
    released
}

fn continue_all(controls: &mut Controls, own: &Path) -> Recovered {
    let others = Others::than(own);
    let mut continued = Recovered::default();
    for (pid, held) in controls.held() {
        let comm = name(&held.comm);
        match try_let_go(pid, &held, &others) {
            Outcome::Continued => continued.continued.push((Pid(pid), comm)),
            Outcome::Gone => {}
            Outcome::Left(why) => continued.left.push((Pid(pid), comm, why.to_owned())),
        }
        let _ = controls.held.remove(&pid);
    }
    continued
}

/// A task's name, which ends at the first NUL byte.
pub(crate) fn name(comm: &[u8; 16]) -> Bytes {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(16);
    Bytes::copy_from_slice(&comm[..end])
}

/// A running keeper, as premod sees it.
pub(crate) struct Keeper {
    child: Child,
    /// Where its maps are pinned.
    directory: PathBuf,
}

impl Keeper {
    /// Starts a keeper for the maps in this directory, and waits until it has them.
    pub(crate) fn start(pins: &Pins) -> Result<Self, Error> {
        let failed = |reason: String| Error::Kernel {
            context: "cannot start the keeper, which continues stopped processes if premod dies"
                .to_owned(),
            reason,
        };
        let mut child = Command::new("/proc/self/exe")
            .arg0("premod")
            .arg("keeper")
            .arg(pins.path())
            .current_dir("/")
            // What the terminal sends to premod's group is not meant for it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Whoever waits for the end of premod's stderr must not wait for the keeper's.
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut ready = [0];
        let read = child
            .stdout
            .as_mut()
            .map_or(Ok(0), |stdout| io::Read::read(stdout, &mut ready));
        match read {
            Ok(1) => Ok(Self {
                child,
                directory: pins.path().to_owned(),
            }),
            Ok(_) => Err(failed("it ended at once".to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Lets the keeper continue everybody and end; whom it continued. If it is gone, this process does it.
    pub(crate) fn dismiss(mut self, controls: &mut Controls) -> Recovered {
        drop(self.child.stdin.take());
        let report = self.report();
        let _ = self.child.wait();
        let mut all = report.unwrap_or_default();
        all.add(release(controls, &self.directory));
        all
    }

    /// Its last words; `None` if it was killed before them.
    fn report(&mut self) -> Option<Recovered> {
        let mut stdout = self.child.stdout.take()?;
        let mut text = String::new();
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        loop {
            let mut polled = [PollFd::new(&stdout, PollFlags::IN)];
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok()?;
            if !rustix::event::poll(&mut polled, Some(&left)).is_ok_and(|ready| ready > 0) {
                // It hangs: it is of no use any more.
                let _ = self.child.kill();
                return None;
            }
            match io::Read::read(&mut stdout, &mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
            }
        }
        Some(Recovered::parse(&text))
    }
}

impl Recovered {
    fn add(&mut self, more: Self) {
        self.continued.extend(more.continued);
        self.left.extend(more.left);
    }

    /// A line for each: `+ PID NAME` or `- PID NAME WHY`, the words in base64.
    fn write(&self) -> String {
        let line = |sign, pid: &Pid, words: &[&[u8]]| {
            let words: Vec<_> = words.iter().map(|word| STANDARD.encode(word)).collect();
            format!("{sign} {} {}\n", pid.0, words.join(" "))
        };
        let continued = self
            .continued
            .iter()
            .map(|(pid, name)| line('+', pid, &[name]));
        let left = self
            .left
            .iter()
            .map(|(pid, name, why)| line('-', pid, &[name, why.as_bytes()]));
        continued.chain(left).collect()
    }

    fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(sign), Some(pid)) = (words.next(), words.next()) else {
                continue;
            };
            let words: Result<Vec<_>, _> = words.map(|word| STANDARD.decode(word)).collect();
            let (Ok(pid), Ok(words)) = (pid.parse(), words) else {
                continue;
            };
            match (sign, &words[..]) {
                ("+", [name]) => all.continued.push((Pid(pid), name.clone().into())),
                ("-", [name, why]) => all.left.push((
                    Pid(pid),
                    name.clone().into(),
                    String::from_utf8_lossy(why).into_owned(),
                )),
                _ => {}
            }
        }
        all
    }
}

/// What the keeper does. It ends when the pipe on its stdin does.
///
/// # Errors
/// If the maps are not there.
pub fn run(directory: &Path) -> Result<(), Error> {
    let mut controls = Controls::pinned(directory)?;
    // It dies by SIGKILL only: until its pipe ends, somebody may depend on it.
    ignore_signals();
    // If memory runs out, others go first.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let mut stdout = io::stdout();
    let _ = stdout.write_all(b".").and_then(|()| stdout.flush());
    let stdin = io::stdin();
    let mut all = Recovered::default();
    loop {
        let mut polled = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        // The pipe ends late if premod is killed: the kernel detaches the programs first, one by one.
        let over = rustix::event::poll(&mut polled, Some(&LOOK)).unwrap_or(0) > 0
            || pins::is_orphan(directory);
        let switch = controls.switch.get(&0, 0).unwrap_or_default();
        let expired = switch.phase == Phase::Closed as u64 && events::now().0 >= switch.deadline;
        if over || expired {
            all.add(release(&mut controls, directory));
        }
        if over {
            break;
        }
    }
    // premod may be gone, and then nobody reads this.
    let _ = stdout.write_all(all.write().as_bytes());
    if pins::is_orphan(directory) {
        pins::remove(directory);
    }
    Ok(())
}

fn ignore_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
        // SAFETY: ignoring a signal needs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Continues what freezes have left stopped whose premod and keeper were both killed.
///
/// # Errors
/// If their maps cannot be opened.
pub fn recover() -> Result<Recovered, Error> {
    namespaces::must_be_the_machines()?;
    let mut all = Recovered::default();
    for directory in pins::all()? {
        if !pins::is_orphan(&directory) {
            continue;
        }
        // A keeper that has just removed them has done the work.
        if let Ok(mut controls) = Controls::pinned(&directory) {
            all.add(release(&mut controls, &directory));
        }
        pins::remove(&directory);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keepers_last_words_come_through() {
        let said = Recovered {
            continued: vec![(Pid(7), Bytes::from_static(b"a b")), (Pid(9), Bytes::new())],
            left: vec![(
                Pid(8),
                Bytes::from_static(b"x\n\xff"),
                HELD_BY_OTHERS.to_owned(),
            )],
        };
        assert_eq!(Recovered::parse(&said.write()), said);
    }
}
