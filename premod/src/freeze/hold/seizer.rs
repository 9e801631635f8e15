//! The hold that nobody sees: threads are seized (`PTRACE_SEIZE`) and interrupted, and stand still until they are let go.
//!
//! It is no stop of job control: the parent sees nothing, an orphaned group is not killed, and SIGCONT changes nothing. When
//! the seizing thread or its process ends, however it does, the kernel lets everybody go.
//!
//! One thread makes all requests, because the kernel takes them from no other one. A second one does nothing but wait:
//! to seize a thread can take until another thread of its process has been waited for, and the parent of a process
//! that dies does not hear of it before we have.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::pipe::{PipeFlags, pipe_with};

use super::{
    processes::{
        TICK, has_ended, is_dumping_core, process_of, started, threads, tracer_of, waits_for_child,
    },
    ptrace::{self, Change},
    signals::Signals,
};

/// How often those who stand still are looked at: whether they are to die, or have lost a thread that nobody tells of.
const LOOK: Duration = Duration::from_millis(100);

/// Whom to seize.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// By which the answer is known.
    pub number: u64,
    /// Process id.
    pub pid: u32,
    /// When it began, in nanoseconds since boot.
    pub started: u64,
    /// Each thread may go on once it has stood still, so that whatever it was in the middle of in the kernel is over. Else
    /// all stand still until the end.
    pub passing: bool,
}

/// Longest wait for repeated system calls, before everybody else goes on.
const CALLS: Duration = Duration::from_millis(100);

/// What has come of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every thread of the process stands still, or has, if the order was a passing one.
    Held,
    /// There is no such process any more.
    Gone,
    /// Somebody else traces it, or the kernel does not allow it.
    Refused,
}

/// The answer to an order.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The order's number.
    pub number: u64,
    /// Its process.
    pub pid: u32,
    /// What has come of it.
    pub outcome: Outcome,
}

/// Holds processes. Everybody is let go when it ends.
pub struct Seizer {
    messages: Sender<Message>,
    answers: Receiver<Answer>,
    /// Can be read from when there are answers.
    ready: OwnedFd,
    over: Receiver<()>,
}

#[derive(Clone, Copy)]
enum Message {
    Hold(Order),
    Changed(u32, Change),
    End,
}

impl Seizer {
    /// Begins.
    ///
    /// # Errors
    /// If there can be no threads.
    pub fn start() -> io::Result<Self> {
        let (messages, inbox) = channel();
        let (outbox, answers) = channel();
        let (ready, bell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let (last, over) = channel();
        let ending = Arc::new(AtomicBool::new(false));
        let waiter = thread::Builder::new()
            .name("premod waits".to_owned())
            .spawn({
                let (messages, ending) = (messages.clone(), Arc::clone(&ending));
                move || wait_for_all(&messages, &ending)
            })?;
        thread::Builder::new()
            .name("premod holds".to_owned())
            .spawn(move || {
                let mut hold = Hold {
                    own: rustix::thread::gettid()
                        .as_raw_nonzero()
                        .get()
                        .cast_unsigned(),
                    waiter: waiter.thread().clone(),
                    outbox,
                    bell,
                    threads: HashMap::new(),
                    processes: HashMap::new(),
                };
                hold.obey(&inbox);
                hold.repeat_calls(&inbox);
                hold.let_all_go();
                let _ = last.send(());
                ending.store(true, Ordering::SeqCst);
                hold.waiter.unpark();
                // With the end of this thread the kernel lets those go that have not come to stand still.
            })?;
        Ok(Self {
            messages,
            answers,
            ready,
            over,
        })
    }

    /// Has a process stand still. It will be answered.
    pub fn order(&self, order: Order) {
        // If the thread is gone, everybody has been let go.
        let _ = self.messages.send(Message::Hold(order));
    }

    /// The answers that have come.
    pub fn answers(&self) -> Vec<Answer> {
        let mut rings = [0; 64];
        while rustix::io::read(&self.ready, &mut rings).is_ok_and(|count| count == rings.len()) {}
        self.answers.try_iter().collect()
    }

    /// Lets everybody go; whether that was done in time. If it was not, the end of the process does it.
    #[must_use]
    pub fn end(self, patience: Duration) -> bool {
        let _ = self.messages.send(Message::End);
        self.over.recv_timeout(patience).is_ok()
    }
}

impl AsFd for Seizer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

/// Passes on what becomes of everybody.
fn wait_for_all(messages: &Sender<Message>, ending: &AtomicBool) {
    loop {
        match ptrace::wait() {
            Ok((thread, change)) => {
                let _ = messages.send(Message::Changed(thread, change));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if ending.load(Ordering::SeqCst) => return,
            // Nobody is seized.
            Err(_) => thread::park(),
        }
    }
}

/// A seized thread.
struct Thread {
    pid: u32,
    stands: bool,
}

/// A process whose threads are seized.
#[derive(Default)]
struct Process {
    /// The orders that are not answered yet.
    asked: Vec<u64>,
    /// Each of its threads goes on when it has stood still.
    passing: bool,
    /// How many of its seized threads do not stand still yet.
    running: usize,
}

/// The state of the thread that makes the requests.
struct Hold {
    /// The id of this very thread.
    own: u32,
    waiter: thread::Thread,
    outbox: Sender<Answer>,
    bell: OwnedFd,
    threads: HashMap<u32, Thread>,
    processes: HashMap<u32, Process>,
}

impl Hold {
    fn obey(&mut self, inbox: &Receiver<Message>) {
        let mut looked = Instant::now();
        loop {
            match inbox.recv_timeout(LOOK) {
                Ok(Message::Hold(order)) => self.hold(order),
                Ok(Message::Changed(thread, change)) => self.changed(thread, change),
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if looked.elapsed() >= LOOK {
                self.look();
                looked = Instant::now();
            }
        }
    }

    fn answer(&mut self, pid: u32, numbers: Vec<u64>, outcome: Outcome) {
        for number in numbers {
            // Whoever asked may have gone.
            let _ = self.outbox.send(Answer {
                number,
                pid,
                outcome,
            });
            let _ = rustix::io::write(&self.bell, b".");
        }
    }

    fn hold(&mut self, order: Order) {
        let pid = order.pid;
        let lives = || started(pid) == Some(order.started / TICK) && !is_dumping_core(pid);
        if !lives() {
            return self.answer(pid, vec![order.number], Outcome::Gone);
        }
        let known = self.processes.contains_key(&pid);
        let process = self.processes.entry(pid).or_default();
        process.asked.push(order.number);
        // Whom somebody holds is not let go because somebody else wants a moment of it.
        process.passing = order.passing && (!known || process.passing);
        if !self.seize_all(pid) {
            return self.give_up(pid, Outcome::Refused);
        }
        // A seized process keeps its number, so that this is the last time that it has to be asked.
        if !lives() {
            return self.give_up(pid, Outcome::Gone);
        }
        self.settle(pid);
    }

    /// Seizes all threads of a process that are not seized yet, until there are no new ones; whether that was possible.
    fn seize_all(&mut self, pid: u32) -> bool {
        loop {
            let mut new = false;
            for thread in threads(pid) {
                if self.threads.contains_key(&thread) {
                    continue;
                }
                let follow = !self.processes.get(&pid).is_some_and(|it| it.passing);
                match ptrace::seize(thread, follow) {
                    Ok(()) => {
                        self.waiter.unpark();
                        // It cannot have gone: it is ours to wait for.
                        let _ = ptrace::interrupt(thread);
                        self.note(thread, pid);
                        new = true;
                    }
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(_) if has_ended(pid, thread) => {}
                    // It is ours already by the thread that has made it, and begins to stand still.
                    Err(_) if tracer_of(thread) == Some(self.own) => {
                        self.note(thread, pid);
                        new = true;
                    }
                    Err(_) => return false,
                }
            }
            if !new {
                return true;
            }
        }
    }

    /// Notes a thread that is seized, and does not stand still yet.
    fn note(&mut self, thread: u32, pid: u32) {
        let stands = false;
        self.threads.insert(thread, Thread { pid, stands });
        self.processes.entry(pid).or_default().running += 1;
    }

    /// Lets the threads of a process go, each when it stands still.
    fn give_up(&mut self, pid: u32, outcome: Outcome) {
        let mut asked = Vec::new();
        if let Some(process) = self.processes.get_mut(&pid) {
            asked = std::mem::take(&mut process.asked);
            process.passing = true;
        }
        let of_it = |(thread, it): (&u32, &Thread)| (it.pid == pid && it.stands).then_some(*thread);
        let standing: Vec<u32> = self.threads.iter().filter_map(of_it).collect();
        for thread in standing {
            let _ = ptrace::let_go(thread, 0);
            self.forget(thread);
        }
        self.forget_if_empty(pid);
        self.answer(pid, asked, outcome);
    }

    fn changed(&mut self, thread: u32, change: Change) {
        if change == Change::Ended {
            let pid = self.threads.get(&thread).map(|it| it.pid);
            self.forget(thread);
            if let Some(pid) = pid {
                self.settle(pid);
            }
            return;
        }
        // A thread or process that one that we follow has made: it stands still from its beginning.
        if !self.threads.contains_key(&thread) {
            let Some(pid) = process_of(thread) else {
                return;
            };
            self.note(thread, pid);
        }
        let Some(it) = self.threads.get_mut(&thread) else {
            return;
        };
        let pid = it.pid;
        let process = self.processes.entry(pid).or_default();
        let signal = match change {
            Change::Signalled(signal) => signal,
            _ => 0,
        };
        if process.passing {
            let _ = ptrace::let_go(thread, signal);
            self.forget(thread);
        } else if signal != 0 {
            // It gets it: it dies, its process stops, or its handler will run when it is let go. It stands still again before
            // anything of its own runs.
            let was_standing = std::mem::replace(&mut it.stands, false);
            process.running += usize::from(was_standing);
            let _ = ptrace::interrupt(thread);
            let _ = ptrace::go_on(thread, signal);
        } else if !std::mem::replace(&mut it.stands, true) {
            process.running -= 1;
        }
        self.settle(pid);
    }

    fn forget(&mut self, thread: u32) {
        let Some(it) = self.threads.remove(&thread) else {
            return;
        };
        if let Some(process) = self.processes.get_mut(&it.pid) {
            process.running -= usize::from(!it.stands);
        }
    }

    fn forget_if_empty(&mut self, pid: u32) {
        if !self.threads.values().any(|it| it.pid == pid) {
            self.processes.remove(&pid);
        }
    }

    /// Answers, if a process stands still in which somebody is interested.
    fn settle(&mut self, pid: u32) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        if process.running > 0 {
            return;
        }
        let (asked, passing) = (!process.asked.is_empty(), process.passing);
        // A thread that was made while others were being seized.
        if asked && !passing {
            if !self.seize_all(pid) {
                return self.give_up(pid, Outcome::Refused);
            }
            if self.processes.get(&pid).is_some_and(|it| it.running > 0) {
                return;
            }
        }
        let mut asked = Vec::new();
        if let Some(process) = self.processes.get_mut(&pid) {
            asked = std::mem::take(&mut process.asked);
        }
        self.forget_if_empty(pid);
        let gone = !passing && !self.processes.contains_key(&pid);
        let outcome = if gone { Outcome::Gone } else { Outcome::Held };
        self.answer(pid, asked, outcome);
    }

    /// Looks at everybody.
    fn look(&mut self) {
        // The end of a first thread is not told while others of its process live. And whoever waits for a child that is held
        // stands as still as that: it will when the child is let go.
        let stands = |pid, thread| has_ended(pid, thread) || waits_for_child(pid, thread);
        let late: Vec<(u32, u32)> = (self.threads.iter())
            .filter(|(thread, it)| !it.stands && stands(it.pid, **thread))
            .map(|(thread, it)| (*thread, it.pid))
            .collect();
        for (thread, pid) in late {
            if let Some(it) = self.threads.get_mut(&thread)
                && let Some(process) = self.processes.get_mut(&pid)
            {
                it.stands = true;
                process.running -= 1;
            }
            self.settle(pid);
        }
        let standing: Vec<u32> = (self.processes.iter())
            .filter(|(_, process)| process.running == 0 && !process.passing)
            .map(|(pid, _)| *pid)
            .collect();
        for pid in standing {
            self.let_die(pid);
        }
    }

    /// A signal that kills waits like any other for as long as its process stands still. So a thread goes on until it is
    /// about to get it: that is before anything of its own runs, because it is pending and not blocked.
    fn let_die(&mut self, pid: u32) {
        if !Signals::of(pid, pid).is_some_and(Signals::are_waiting) {
            return;
        }
        let takes = |thread: &u32| {
            let ours = self.threads.get(thread);
            ours.is_some_and(|it| it.stands && it.pid == pid)
                && !has_ended(pid, *thread)
                && Signals::of(pid, *thread).is_some_and(Signals::will_kill)
        };
        let Some(thread) = threads(pid).into_iter().find(takes) else {
            return;
        };
        if ptrace::go_on(thread, 0).is_ok()
            && let Some(it) = self.threads.get_mut(&thread)
            && let Some(process) = self.processes.get_mut(&pid)
        {
            it.stands = false;
            process.running += 1;
        }
    }

    /// Lets those that wait in a system call repeat it, before anybody else goes on: a sibling whose time has passed meanwhile
    /// takes it for done, and may make its descriptor that of another file.
    fn repeat_calls(&mut self, inbox: &Receiver<Message>) {
        /// Beginning and end of the call.
        const STOPS: u32 = 2;
        let repeats = |(thread, it): (&u32, &Thread)| {
            let repeats = it.stands && ptrace::will_repeat_call(*thread);
            (repeats && ptrace::go_on_to_call(*thread).is_ok()).then_some((*thread, STOPS))
        };
        let mut calling: HashMap<u32, u32> = self.threads.iter().filter_map(repeats).collect();
        for thread in calling.keys() {
            if let Some(it) = self.threads.get_mut(thread) {
                it.stands = false;
            }
        }
        let deadline = Instant::now() + CALLS;
        while !calling.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let (thread, change) = match inbox.recv_timeout(left) {
                Ok(Message::Changed(thread, change)) => (thread, change),
                Ok(_) => continue,
                // It waits for something. The end of this thread lets it go.
                Err(_) => return,
            };
            let Some(stops) = calling.get_mut(&thread) else {
                continue;
            };
            *stops -= 1;
            let _ = match change {
                Change::Calls if *stops > 0 => {
                    let _ = ptrace::go_on_to_call(thread);
                    continue;
                }
                Change::Calls | Change::Stands => ptrace::let_go(thread, 0),
                Change::Signalled(signal) => ptrace::let_go(thread, signal),
                Change::Ended => Ok(()),
            };
            calling.remove(&thread);
        }
    }

    fn let_all_go(&mut self) {
        for (thread, it) in &self.threads {
            if it.stands {
                let _ = ptrace::let_go(*thread, 0);
            }
        }
    }
}
