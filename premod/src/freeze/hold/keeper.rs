//! The keeper: a process that holds others and lets them go, whatever becomes of premod.
//!
//! It holds the maps of one freeze and a pipe. When premod closes the pipe, or dies, or the deadline passes,
//! it opens the switch, waits until all hooks obey, lets those go whom it has seized, and continues those that were
//! stopped. If the keeper is killed too, the kernel lets go whoever was seized; of the others the maps tell, which stay
//! pinned in the BPF filesystem, and [`recover`] continues them.

use std::{
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use premod_common::guard::{HeldProcess, Phase};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
};
use tokio::task::yield_now;

use super::{
    keeping,
    others::Others,
    processes::{TICK, is_stopped_by_signal, parent_of, started},
    seizer::Outcome,
};
use crate::{
    error::Error,
    events::{self, Pid},
    freeze::{
        guards::{
            Controls,
            pins::{self, Pins},
        },
        users::User,
    },
    namespaces,
};

/// How often the keeper looks at the deadline, and whether premod lives.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// How long premod listens to nobody else.
const MOMENT: Duration = Duration::from_millis(10);
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
enum Fate {
    Continued,
    /// It has ended.
    Gone,
    Left(&'static str),
}

/// Continues one process, if it is still the one that was stopped and nobody else has stopped it.
pub(crate) fn let_go(pid: u32, held: &HeldProcess, others: &Others) {
    let _ = try_let_go(pid, held, others);
}

fn try_let_go(pid: u32, held: &HeldProcess, others: &Others) -> Fate {
    // First the descriptor, then the look: it cannot become another process in between.
    let Some(process) = descriptor(pid) else {
        return Fate::Gone;
    };
    if started(pid) != Some(held.started / TICK) {
        return Fate::Gone;
    }
    if others.stop(pid, held.started) {
        return Fate::Left(HELD_BY_OTHERS);
    }
    let by_others = Signal::from_named_raw(held.stopped_by_others.into());
    if by_others == Some(Signal::STOP) {
        return Fate::Left(STOPPED_BY_OTHERS);
    }
    match pidfd_send_signal(&process, Signal::CONT) {
        Ok(()) => {
            // What the terminal has sent meanwhile is gone by that. It knows best what to do with it: to stop, to handle
            // or to ignore it.
            if let Some(signal) = by_others {
                let _ = pidfd_send_signal(&process, signal);
            }
            if others.hold(pid, held.started) {
                return Fate::Left(HELD_BY_OTHERS);
            }
            Fate::Continued
        }
        Err(rustix::io::Errno::SRCH) => Fate::Gone,
        Err(_) => Fate::Left("the kernel does not let it be continued"),
    }
}

/// A descriptor of a process; `None` if there is none.
fn descriptor(pid: u32) -> Option<OwnedFd> {
    let process = rustix::process::Pid::from_raw(pid as i32)?;
    pidfd_open(process, PidfdFlags::empty()).ok()
}

/// What becomes of a process that was seized, now that it is not any more.
fn fate_of_seized(pid: u32, held: &HeldProcess, others: &Others) -> Fate {
    if started(pid) != Some(held.started / TICK) {
        Fate::Gone
    } else if others.hold(pid, held.started) {
        Fate::Left(HELD_BY_OTHERS)
    } else if i32::from(held.stopped_by_others) == libc::SIGSTOP {
        Fate::Left(STOPPED_BY_OTHERS)
    } else {
        Fate::Continued
    }
}

/// Opens the switch and continues everybody who was stopped; whoever was seized has been let go, or the switch is all that
/// it waits for. The maps are pinned in this directory.
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
    for (pid, held) in controls.all_held() {
        let comm = name(&held.comm);
        let outcome = if controls.held.get(&pid, 0).is_ok() {
            let outcome = try_let_go(pid, &held, &others);
            if matches!(outcome, Fate::Continued) {
                continue_parents(controls, pid, held.since);
            }
            outcome
        } else {
            fate_of_seized(pid, &held, &others)
        };
        match outcome {
            Fate::Continued => continued.continued.push((Pid(pid), comm)),
            Fate::Gone => {}
            Fate::Left(why) => continued.left.push((Pid(pid), comm, why.to_owned())),
        }
        let _ = controls.held.remove(&pid);
        let _ = controls.seized.remove(&pid);
    }
    continued
}

/// Continues whoever waits for a process that was stopped, has stopped itself since, and expects to be continued by the one
/// who has stopped the process: su and sudo do so.
fn continue_parents(controls: &Controls, stopped: u32, since: u64) {
    let mut child = stopped;
    while let Some(parent) = parent_of(child).filter(|&parent| parent > 1) {
        let at = controls.stopped_themselves.get(&parent, 0);
        if at.is_ok_and(|at| at >= since)
            && let Some(process) = descriptor(parent)
            && parent_of(child) == Some(parent)
            && is_stopped_by_signal(parent)
        {
            let _ = pidfd_send_signal(&process, Signal::CONT);
        }
        child = parent;
    }
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
    /// What it has said, up to the line that is not complete.
    heard: Vec<u8>,
    /// The number of the last order.
    orders: u64,
}

impl Keeper {
    /// Starts a keeper for the maps in this directory, and waits until it has them.
    pub(crate) fn start(pins: &Pins) -> Result<Self, Error> {
        let failed = |reason: String| Error::Kernel {
            context: "cannot start the keeper, which continues stopped processes if premod dies"
                .to_owned(),
            reason,
        };
        let Some(mut command) = keeping::command(pins.path()) else {
            let why = "this program does not call premod::freeze::keep_if_asked first of all";
            return Err(failed(why.to_owned()));
        };
        let mut child = command
            .current_dir("/")
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
                heard: Vec::new(),
                orders: 0,
            }),
            Ok(_) => Err(failed("it ended at once".to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has processes stand still until the thaw; those that it could not seize, and those that do not stand still in time.
    pub(crate) async fn hold<'a>(
        &mut self,
        users: &[&'a User],
        limit: Instant,
    ) -> (Vec<&'a User>, Vec<&'a User>) {
        /// So many orders and answers fit into the pipes, so that nobody waits for the other one to read.
        const AT_ONCE: usize = 256;
        let (mut refused, mut late) = (Vec::new(), Vec::new());
        for users in users.chunks(AT_ONCE) {
            let answers = self.ask("hold", users, limit).await;
            for (&user, answer) in users.iter().zip(answers) {
                match answer {
                    Some(Outcome::Held | Outcome::Gone) => {}
                    Some(Outcome::Refused) => refused.push(user),
                    None => late.push(user),
                }
            }
        }
        (refused, late)
    }

    /// Has each thread of a process stand still for a moment; whether all have in time. `None` if they could not be seized.
    pub(crate) async fn interrupt(&mut self, user: &User, limit: Instant) -> Option<bool> {
        match self.ask("interrupt", &[user], limit).await[..] {
            [Some(Outcome::Refused)] => None,
            [answer] => Some(answer.is_some()),
            _ => None,
        }
    }

    /// Gives an order for each process, and waits for the answers. Whoever waits for this can see to other things meanwhile.
    async fn ask(&mut self, order: &str, users: &[&User], limit: Instant) -> Vec<Option<Outcome>> {
        let left = limit.saturating_duration_since(Instant::now());
        let deadline = events::now().0 + left.as_nanos() as u64;
        let first = self.orders + 1;
        self.orders += users.len() as u64;
        let lines: String = (first..)
            .zip(users)
            .map(|(number, user)| {
                format!(
                    "{order} {number} {} {} {deadline}\n",
                    user.pid, user.started
                )
            })
            .collect();
        let sent = self
            .child
            .stdin
            .as_mut()
            .map(|it| it.write_all(lines.as_bytes()));
        let mut answers = vec![None; users.len()];
        if !matches!(sent, Some(Ok(()))) {
            answers.fill(Some(Outcome::Refused));
            return answers;
        }
        while answers.contains(&None) {
            match self.hear(limit.min(Instant::now() + MOMENT)) {
                Heard::Line(line) => {
                    // An answer that was given up may come now.
                    if let Some((number, outcome)) = parse_answer(&line)
                        && let Some(place) = number.checked_sub(first)
                        && let Some(answer) = answers.get_mut(place as usize)
                    {
                        *answer = Some(outcome);
                    }
                }
                Heard::Nothing if Instant::now() >= limit => break,
                Heard::Nothing => yield_now().await,
                // It is dead, and has let everybody go.
                Heard::End => answers.fill(Some(Outcome::Refused)),
            }
        }
        answers
    }

    /// The next line that it says.
    fn hear(&mut self, limit: Instant) -> Heard {
        let Some(stdout) = &mut self.child.stdout else {
            return Heard::End;
        };
        loop {
            if let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return Heard::Line(String::from_utf8_lossy(&line).into_owned());
            }
            let mut polled = [PollFd::new(stdout, PollFlags::IN)];
            let left = limit.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or(LOOK);
            if !rustix::event::poll(&mut polled, Some(&left)).is_ok_and(|ready| ready > 0) {
                return Heard::Nothing;
            }
            let mut buffer = [0; 4096];
            match io::Read::read(stdout, &mut buffer) {
                Ok(0) | Err(_) => return Heard::End,
                Ok(count) => self.heard.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// Lets the keeper continue everybody and end; whom it continued. If it is gone, this process does it.
    pub(crate) fn dismiss(mut self, controls: &mut Controls) -> Recovered {
        drop(self.child.stdin.take());
        // If somebody has stopped it, it could not obey.
        let _ = kill_process(rustix::process::Pid::from_child(&self.child), Signal::CONT);
        let report = self.report();
        let _ = self.child.wait();
        let mut all = report.unwrap_or_default();
        all.add(release(controls, &self.directory));
        all
    }

    /// Its last words; `None` if it was killed before them.
    fn report(&mut self) -> Option<Recovered> {
        let deadline = Instant::now() + PATIENCE;
        let mut text = String::new();
        loop {
            match self.hear(deadline) {
                Heard::Line(line) => text.push_str(&line),
                Heard::End => return Some(Recovered::parse(&text)),
                Heard::Nothing => {
                    // It hangs: it is of no use any more.
                    let _ = self.child.kill();
                    return None;
                }
            }
        }
    }
}

/// What premod hears of the keeper.
enum Heard {
    Line(String),
    /// Nothing in time.
    Nothing,
    /// It has ended.
    End,
}

/// How the keeper answers an order.
pub(super) fn answer(number: u64, outcome: Outcome) -> String {
    let word = match outcome {
        Outcome::Held => HELD,
        Outcome::Gone => GONE,
        Outcome::Refused => REFUSED,
    };
    format!("{word} {number}\n")
}

fn parse_answer(line: &str) -> Option<(u64, Outcome)> {
    let (word, number) = line.trim_end().split_once(' ')?;
    let outcome = match word {
        HELD => Outcome::Held,
        GONE => Outcome::Gone,
        REFUSED => Outcome::Refused,
        _ => return None,
    };
    Some((number.parse().ok()?, outcome))
}

const HELD: &str = "held";
const GONE: &str = "gone";
const REFUSED: &str = "refused";

impl Recovered {
    pub(super) fn add(&mut self, more: Self) {
        self.continued.extend(more.continued);
        self.left.extend(more.left);
    }

    /// A line for each: `+ PID NAME` or `- PID NAME WHY`, the words in base64.
    pub(super) fn write(&self) -> String {
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
