//! What the keeper's process does.

use std::{
    env, fs,
    io::{self, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use aya::maps::{Map, MapData, RingBuf};
use premod_common::{
    event::Op,
    guard::{HeldProcess, Phase, Waiting},
};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::{
    keeper::{Recovered, answer, release},
    others::Others,
    processes::{TICK, comm, companions, is_stopped_by_signal, started},
    seizer::{Order, Outcome, Seizer},
    stop,
};
use crate::{
    error::Error,
    events,
    freeze::{
        guards::{Controls, pins},
        users::User,
    },
    output::printable,
};

/// How often the keeper looks at the deadline, and whether premod lives.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// Longest wait until everybody is let go who was seized. After it the keeper ends, and the kernel does it.
const PATIENCE: Duration = Duration::from_secs(1);
/// The number of orders that nobody has given but the kernel side.
const OWN: u64 = 0;

/// By what a keeper is known among the processes, and knows itself.
const NAME: [&str; 2] = ["premod", "keeper"];

/// Whether this program would be a keeper if it were run as one.
static KNOWS: AtomicBool = AtomicBool::new(false);

/// Has to come first in the `main` of a program that freezes: the program is run once more as its own keeper, which holds
/// others and lets them go whatever becomes of the program. In the keeper this does not return.
pub fn keep_if_asked() {
    let mut words = env::args_os();
    let is_asked = NAME
        .iter()
        .all(|name| words.next().is_some_and(|word| word == *name));
    if let (true, Some(directory), None) = (is_asked, words.next(), words.next()) {
        let kept = run(Path::new(&directory));
        // Nobody hears it but who calls it by hand.
        if let Err(error) = &kept {
            let sentence = printable(error.to_string().as_bytes());
            let _ = writeln!(io::stderr(), "premod: {sentence}");
        }
        process::exit(kept.map_or(1, |()| 0));
    }
    KNOWS.store(true, Ordering::Relaxed);
}

/// This very program, as the keeper of the maps in this directory; `None` if it would not know what it is run for.
pub(super) fn command(directory: &Path) -> Option<Command> {
    if !KNOWS.load(Ordering::Relaxed) {
        return None;
    }
    let [program, word] = NAME;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(program).arg(word).arg(directory);
    Some(command)
}

/// What the keeper does. It ends when the pipe on its stdin does.
fn run(directory: &Path) -> Result<(), Error> {
    // What is sent to premod's terminal or session is not meant for it.
    let _ = rustix::process::setsid();
    let mut keeping = Keeping::begin(directory)?;
    // It dies by SIGKILL only: until its pipe ends, somebody may depend on it.
    ignore_signals();
    // If memory runs out, others go first.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let mut stdout = io::stdout();
    let _ = stdout.write_all(b".").and_then(|()| stdout.flush());
    while !keeping.is_over() {}
    // premod may be gone, and then nobody reads this.
    let _ = stdout.write_all(keeping.released.write().as_bytes());
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

struct Keeping {
    directory: PathBuf,
    controls: Controls,
    /// Who waits in a system call.
    waiting: RingBuf<MapData>,
    /// `None` when everybody was let go.
    seizer: Option<Seizer>,
    /// Bytes of an order that is not complete.
    orders: Vec<u8>,
    /// When those are let go at the latest who are held before the switch is closed, by the monotonic clock.
    limit: u64,
    released: Recovered,
}

impl Keeping {
    fn begin(directory: &Path) -> Result<Self, Error> {
        let waiting = MapData::from_pin(directory.join("waiting"))
            .and_then(|map| RingBuf::try_from(Map::RingBuf(map)))
            .map_err(|error| Error::kernel("cannot open a pinned map", &error))?;
        let seizer =
            Seizer::start().map_err(|error| Error::kernel("cannot make a thread", &error))?;
        Ok(Self {
            directory: directory.to_owned(),
            controls: Controls::pinned(directory)?,
            waiting,
            seizer: Some(seizer),
            orders: Vec::new(),
            limit: u64::MAX,
            released: Recovered::default(),
        })
    }

    /// Waits for something, and does what has to be done; whether that was the last.
    fn is_over(&mut self) -> bool {
        let stdin = io::stdin();
        let mut polled = vec![
            PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.waiting.as_fd(), PollFlags::IN),
        ];
        if let Some(seizer) = &self.seizer {
            polled.push(PollFd::from_borrowed_fd(seizer.as_fd(), PollFlags::IN));
        }
        let _ = rustix::event::poll(&mut polled, Some(&LOOK));
        let heard = !polled[0].revents().is_empty();
        self.hold_who_waits();
        let mut over = heard && !self.obey();
        self.pass_answers_on();
        // The pipe ends late if premod is killed: the kernel detaches the programs first, one by one.
        over |= pins::is_orphan(&self.directory);
        let switch = self.controls.switch.get(&0, 0).unwrap_or_default();
        let deadline = if switch.phase == Phase::Closed as u64 {
            switch.deadline
        } else {
            self.limit
        };
        if over || events::now().0 >= deadline {
            self.limit = u64::MAX;
            // If not everybody could be let go, the end of the process does it.
            over |= !self.release();
        }
        over
    }

    /// Lets everybody go; whether that could be done without the end of this process.
    fn release(&mut self) -> bool {
        let mut done = true;
        if let Some(seizer) = self.seizer.take() {
            if let Err(error) = self.controls.order(Phase::Open, 0) {
                tracing::error!("{error}");
            }
            done = seizer.end(PATIENCE);
        }
        let released = release(&mut self.controls, &self.directory);
        self.released.add(released);
        done
    }

    /// Seizes those that wait in a system call, and those whose descriptors or memory they have.
    fn hold_who_waits(&mut self) {
        while let Some(waiting) = self.waiting.next().map(|item| Waiting::decode(&item)) {
            let (Some(waiting), Some(seizer)) = (waiting, &self.seizer) else {
                continue;
            };
            seizer.order(Order {
                number: OWN,
                pid: waiting.pid,
                started: waiting.started,
                passing: false,
            });
            if waiting.sharer == 0 {
                continue;
            }
            for pid in companions(waiting.pid, waiting.sharer) {
                if let Some(began) = started(pid) {
                    self.hold(OWN, pid, began * TICK);
                }
            }
        }
    }

    /// Has a process stand still that is not noted yet.
    fn hold(&mut self, number: u64, pid: u32, started: u64) {
        const ANY: u64 = 0;
        let known = self.controls.seized.get(&pid, 0);
        if !known.is_ok_and(|known| known.started / TICK == started / TICK) {
            let others = Others::than(&self.directory);
            let by_signal = is_stopped_by_signal(pid) && !others.hold(pid, started);
            let mut padded = [0; 16];
            let name = comm(pid);
            let length = name.len().min(15);
            padded[..length].copy_from_slice(&name[..length]);
            let note = HeldProcess {
                started,
                since: events::now().0,
                inode: 0,
                writable: 0,
                tid: pid,
                op: Op::Mmap as u8,
                stopped_by_others: if by_signal { libc::SIGSTOP as u8 } else { 0 },
                rounds: 0,
                comm: padded,
            };
            // Whoever is not noted is held all the same, and not told of.
            let _ = self.controls.seized.insert(pid, note, ANY);
        }
        if let Some(seizer) = &self.seizer {
            seizer.order(Order {
                number,
                pid,
                started,
                passing: false,
            });
        }
    }

    /// Takes premod's orders; false at their end.
    fn obey(&mut self) -> bool {
        let mut some = [0; 4096];
        match rustix::io::read(io::stdin(), &mut some) {
            Ok(0) | Err(_) => return false,
            Ok(count) => self.orders.extend_from_slice(&some[..count]),
        }
        while let Some(end) = self.orders.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.orders.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let mut words = line.split_whitespace();
            let word = words.next();
            let mut next = || words.next()?.parse::<u64>().ok();
            if let (Some(word), Some(number), Some(pid), Some(started), Some(limit)) =
                (word, next(), next(), next(), next())
            {
                self.order(word, number, pid as u32, started, limit);
            }
        }
        true
    }

    fn order(&mut self, word: &str, number: u64, pid: u32, started: u64, limit: u64) {
        let Some(seizer) = &self.seizer else {
            // Everybody was let go, and nobody can be held any more.
            return tell(&answer(number, Outcome::Refused));
        };
        if word == "hold" {
            self.limit = limit;
            self.hold(number, pid, started);
        } else {
            seizer.order(Order {
                number,
                pid,
                started,
                passing: true,
            });
        }
    }

    fn pass_answers_on(&mut self) {
        let answers = self.seizer.as_ref().map(Seizer::answers);
        for it in answers.unwrap_or_default() {
            if it.number != OWN {
                tell(&answer(it.number, it.outcome));
            }
            if it.outcome == Outcome::Held {
                continue;
            }
            let noted = self.controls.seized.get(&it.pid, 0);
            let _ = self.controls.seized.remove(&it.pid);
            // premod stops those itself that it has asked for.
            if it.number == OWN
                && it.outcome == Outcome::Refused
                && let Ok(noted) = noted
            {
                self.stop(it.pid, &noted);
            }
        }
    }

    /// Stops a process by SIGSTOP that cannot be seized.
    fn stop(&mut self, pid: u32, noted: &HeldProcess) {
        let user = User {
            pid,
            started: noted.started,
            comm: comm(pid),
            threads: 1,
            shares_memory: false,
            files: Vec::new(),
        };
        let others = Others::than(&self.directory);
        // If it cannot be stopped either, it goes on asking, and the kernel side sees to it.
        let _ = stop::stop(&mut self.controls, &others, &user);
    }
}

/// What premod does not hear it need not know.
fn tell(line: &str) {
    let mut stdout = io::stdout();
    let _ = stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.flush());
}
