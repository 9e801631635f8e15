//! What this program does as another process: it seizes, is seized, or is a parent of one that is.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command},
    ptr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use premod::freeze::seizer::{Order, Outcome, Seizer};
use rustix::{
    event::{PollFd, PollFlags, poll},
    mm::{MapFlags, ProtFlags, mmap},
};

use crate::{PATIENCE, THREADS, WHILE};

/// Takes `hold PID STARTED` and `pass PID STARTED`, writes answers, and ends with its stdin.
pub(crate) fn seizer() {
    let seizer = Seizer::start().expect("threads");
    let (stdin, mut bytes) = (std::io::stdin(), Vec::new());
    loop {
        let mut polled = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::new(&seizer, PollFlags::IN),
        ];
        poll(&mut polled, None).expect("poll");
        if !polled[0].revents().is_empty() {
            let mut some = [0; 1024];
            let count = rustix::io::read(&stdin, &mut some).expect("read");
            if count == 0 {
                assert!(seizer.end(PATIENCE), "it does not end");
                return;
            }
            bytes.extend_from_slice(&some[..count]);
            while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = bytes.drain(..=end).collect();
                let line = String::from_utf8(line).expect("UTF-8");
                let mut words = line.split_whitespace();
                let word = words.next().expect("a word");
                let mut number = || {
                    words
                        .next()
                        .expect("a number")
                        .parse::<u64>()
                        .expect("digits")
                };
                let order = Order {
                    number: 7,
                    pid: number() as u32,
                    started: number(),
                    passing: word == "pass",
                };
                seizer.order(order);
            }
        }
        for answer in seizer.answers() {
            assert_eq!(answer.number, 7);
            let word = match answer.outcome {
                Outcome::Held => "held",
                Outcome::Gone => "gone",
                Outcome::Refused => "refused",
            };
            println!("{word} {}", answer.pid);
        }
    }
}

/// Progress of a victim's threads, in a file that it and the test have mapped.
pub(crate) struct Board(pub(crate) PathBuf, &'static [AtomicU64]);

impl Board {
    pub(crate) fn open(path: PathBuf) -> Self {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = file.expect("a board");
        file.set_len(4096).expect("ftruncate");
        // SAFETY: a new mapping, which stays; the page is there, and atomics are all that is made of it.
        let counters = unsafe {
            let flags = ProtFlags::READ | ProtFlags::WRITE;
            let page = mmap(ptr::null_mut(), 4096, flags, MapFlags::SHARED, &file, 0);
            std::slice::from_raw_parts(page.expect("mmap").cast::<AtomicU64>(), 512)
        };
        Self(path, counters)
    }

    pub(crate) fn now(&self) -> Vec<u64> {
        self.1
            .iter()
            .map(|counter| counter.load(Ordering::SeqCst))
            .collect()
    }

    /// How many counters move within a while.
    pub(crate) fn moving(&self) -> usize {
        let before = self.now();
        thread::sleep(WHILE);
        let after = self.now();
        before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before != after)
            .count()
    }

    pub(crate) fn wait_until(&self, moving: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.moving();
            if found == moving {
                return;
            }
            assert!(Instant::now() < deadline, "{found} move, not {moving}");
        }
    }
}

fn count(counter: &AtomicU64, sleeps: bool) -> ! {
    loop {
        counter.fetch_add(1, Ordering::SeqCst);
        if sleeps {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

extern "C" fn caught(_: libc::c_int) {}

/// Threads that count, half of them sleeping in between.
pub(crate) fn victim(board: &str, how: &str) {
    let board = Board::open(board.into());
    if how == "catches" {
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGTERM, caught as *const () as libc::sighandler_t) };
    }
    let counters = board.1;
    for (number, counter) in counters.iter().enumerate().take(THREADS).skip(1) {
        thread::spawn(move || count(counter, number % 2 == 0));
    }
    match how {
        // It makes threads and children all the time, each of which counts for a moment.
        "makes" => loop {
            counters[0].fetch_add(1, Ordering::SeqCst);
            let thread = thread::spawn(|| counters[10].fetch_add(1, Ordering::SeqCst));
            // SAFETY: the child makes system calls and counts.
            let child = unsafe { libc::fork() };
            if child == 0 {
                counters[11].fetch_add(1, Ordering::SeqCst);
                // SAFETY: ends the child.
                unsafe { libc::_exit(0) };
            }
            thread.join().expect("a thread");
            // SAFETY: our own child.
            unsafe { libc::waitpid(child, ptr::null_mut(), 0) };
        },
        // SAFETY: ends this thread, which owns nothing that another one needs.
        "headless" => unsafe {
            libc::syscall(libc::SYS_exit, 0);
        },
        _ => count(&counters[0], false),
    }
}

/// A parent that looks for stops, as shells, su and sudo do, and says what it has seen.
#[expect(clippy::zombie_processes, reason = "it is waited for by its number")]
pub(crate) fn parent(board: &str) {
    let child = spawn_victim(board, "");
    println!("{}", child.id());
    let mut status = 0;
    loop {
        let flags = libc::WUNTRACED | libc::WCONTINUED;
        // SAFETY: our own child.
        unsafe { libc::waitpid(child.id().cast_signed(), &raw mut status, flags) };
        println!("{status}");
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            return;
        }
    }
}

pub(crate) fn spawn_victim(board: &str, how: &str) -> Child {
    own(&["victim", board, how]).spawn().expect("a victim")
}

pub(crate) fn own(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(words);
    command
}
