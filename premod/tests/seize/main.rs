//! What [`premod::freeze::seizer`] promises, on processes of this machine's own: it needs neither BPF nor a virtual machine.
//!
//! The seizer waits for every child of its process, so that it runs in one of its own ([`roles`]), and so do its victims.

mod roles;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdin, ChildStdout, ExitCode, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::roles::{Board, own, parent, seizer, spawn_victim, victim};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Within this time whoever runs makes progress.
pub(crate) const WHILE: Duration = Duration::from_millis(100);
pub(crate) const THREADS: usize = 6;

const TESTS: &[(&str, fn())] = &[
    (
        "all_threads_stand_still_until_they_are_let_go",
        all_threads_stand_still,
    ),
    ("a_parent_sees_nothing", a_parent_sees_nothing),
    ("sigcont_changes_nothing", sigcont_changes_nothing),
    ("what_kills_kills_at_once", what_kills_kills_at_once),
    ("a_handler_runs_later", a_handler_runs_later),
    ("a_stop_takes_effect_later", a_stop_takes_effect_later),
    ("who_was_stopped_stays_so", who_was_stopped_stays_so),
    (
        "who_is_traced_is_refused_and_goes_on",
        who_is_traced_is_refused,
    ),
    (
        "children_and_new_threads_stand_still_too",
        children_stand_still_too,
    ),
    (
        "without_its_first_thread_a_process_is_held",
        without_its_first_thread,
    ),
    ("a_moment_passes", a_moment_passes),
    (
        "another_process_with_the_number_is_left_alone",
        another_process_is_left_alone,
    ),
    (
        "when_the_seizer_is_killed_everybody_goes_on",
        when_the_seizer_is_killed,
    ),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words[..] {
        [role] if role == "seizer" => seizer(),
        [role, board, how] if role == "victim" => victim(board, how),
        [role, board] if role == "parent" => parent(board),
        _ => {
            // As the standard harness: a word selects, options do not matter.
            let selected = words.iter().find(|word| !word.starts_with('-'));
            let selected = |name: &str| selected.is_none_or(|word| name.contains(word.as_str()));
            let (run, left): (Vec<_>, Vec<_>) = TESTS.iter().partition(|test| selected(test.0));
            for (name, test) in &run {
                test();
                println!("test {name} ... ok");
            }
            let (run, left) = (run.len(), left.len());
            println!(
                "test result: ok. {run} passed; 0 failed; 0 ignored; 0 measured; {left} filtered out; finished"
            );
        }
    }
    ExitCode::SUCCESS
}

/// A victim, as the test sees it.
struct Victim {
    child: Child,
    board: Board,
}

impl Victim {
    fn start(how: &str, moving: usize) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let name = format!("premod-seize-{}-{number}", std::process::id());
        let board = Board::open(std::env::temp_dir().join(name));
        let child = spawn_victim(board.0.to_str().expect("a plain path"), how);
        board.wait_until(moving);
        Self { child, board }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        signal_to(self.pid(), signal);
    }

    fn status(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.board.0);
    }
}

fn signal_to(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
    kill_process(pid, signal).expect("it is there");
}

/// What `stat` tells of a process.
fn stat(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let rest = text.rsplit_once(") ").expect("a name").1;
    rest.split(' ').map(str::to_owned).collect()
}

/// The other program, which seizes.
struct Other {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Other {
    fn start() -> Self {
        let mut command = own(&["seizer"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Self {
            child,
            orders,
            answers,
        }
    }

    fn order(&mut self, order: &str, pid: u32, late: u64) -> String {
        let ticks: u64 = stat(pid)[19].parse().expect("digits");
        let orders = self.orders.as_mut().expect("it lives");
        writeln!(orders, "{order} {pid} {}", (ticks + late) * 10_000_000).expect("it lives");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }

    fn hold(&mut self, pid: u32) {
        assert_eq!(self.order("hold", pid, 0), format!("held {pid}"));
    }

    /// It lets everybody go.
    fn end(mut self) {
        drop(self.orders.take());
        assert!(self.child.wait().expect("it").success());
    }
}

fn all_threads_stand_still() {
    let victim = Victim::start("", THREADS);
    let mut seizer = Other::start();
    seizer.hold(victim.pid());
    assert_eq!(victim.board.moving(), 0);
    seizer.hold(victim.pid());
    seizer.end();
    victim.board.wait_until(THREADS);
}

fn a_parent_sees_nothing() {
    let path = std::env::temp_dir().join(format!("premod-parent-{}", std::process::id()));
    let board = Board::open(path.clone());
    let mut parent = own(&["parent", path.to_str().expect("a plain path")]);
    let mut parent = parent.stdout(Stdio::piped()).spawn().expect("a parent");
    let mut lines = BufReader::new(parent.stdout.take().expect("a pipe")).lines();
    let mut said = || lines.next().expect("a line").expect("UTF-8");
    let pid: u32 = said().parse().expect("a number");
    board.wait_until(THREADS);
    for _ in 0..5 {
        let mut seizer = Other::start();
        seizer.hold(pid);
        assert_eq!(board.moving(), 0);
        signal_to(pid, Signal::CONT);
        seizer.end();
        board.wait_until(THREADS);
    }
    signal_to(pid, Signal::KILL);
    assert_eq!(
        said(),
        libc::SIGKILL.to_string(),
        "the first thing that it sees"
    );
    parent.wait().expect("the parent");
    let _ = fs::remove_file(path);
}

fn sigcont_changes_nothing() {
    let victim = Victim::start("", THREADS);
    let mut seizer = Other::start();
    seizer.hold(victim.pid());
    let before = victim.board.now();
    for _ in 0..60 {
        victim.signal(Signal::CONT);
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(victim.board.now(), before);
    seizer.end();
    victim.board.wait_until(THREADS);
}

fn what_kills_kills_at_once() {
    for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
        let mut victim = Victim::start("", THREADS);
        let mut seizer = Other::start();
        seizer.hold(victim.pid());
        let before = victim.board.now();
        victim.signal(signal);
        assert_eq!(victim.status().signal(), Some(signal.as_raw()));
        assert_eq!(victim.board.now(), before, "it has run");
        seizer.end();
    }
}

fn a_handler_runs_later() {
    let victim = Victim::start("catches", THREADS);
    let mut seizer = Other::start();
    seizer.hold(victim.pid());
    victim.signal(Signal::TERM);
    thread::sleep(3 * WHILE);
    assert_eq!(victim.board.moving(), 0);
    // What kills does so, though the other one is waiting, too.
    seizer.end();
    victim.board.wait_until(THREADS);
}

fn a_stop_takes_effect_later() {
    let victim = Victim::start("", THREADS);
    let mut seizer = Other::start();
    seizer.hold(victim.pid());
    victim.signal(Signal::STOP);
    assert_eq!(victim.board.moving(), 0);
    seizer.end();
    thread::sleep(WHILE);
    assert_eq!((victim.board.moving(), &*stat(victim.pid())[0]), (0, "T"));
    victim.signal(Signal::CONT);
    victim.board.wait_until(THREADS);
}

fn who_was_stopped_stays_so() {
    let victim = Victim::start("", THREADS);
    victim.signal(Signal::STOP);
    victim.board.wait_until(0);
    let mut seizer = Other::start();
    seizer.hold(victim.pid());
    seizer.end();
    assert_eq!((victim.board.moving(), &*stat(victim.pid())[0]), (0, "T"));
    // It is continued while it is held: that counts later.
    let mut seizer = Other::start();
    seizer.hold(victim.pid());
    victim.signal(Signal::CONT);
    assert_eq!(victim.board.moving(), 0);
    seizer.end();
    victim.board.wait_until(THREADS);
}

fn who_is_traced_is_refused() {
    let victim = Victim::start("", THREADS);
    let (mut first, mut second) = (Other::start(), Other::start());
    first.hold(victim.pid());
    let answer = second.order("hold", victim.pid(), 0);
    assert_eq!(answer, format!("refused {}", victim.pid()));
    second.end();
    assert_eq!(victim.board.moving(), 0);
    first.end();
    victim.board.wait_until(THREADS);
}

fn children_stand_still_too() {
    for _ in 0..10 {
        let victim = Victim::start("makes", THREADS + 2);
        let mut seizer = Other::start();
        seizer.hold(victim.pid());
        // A child that it has made before may count once more.
        thread::sleep(WHILE);
        assert_eq!(victim.board.moving(), 0);
        seizer.end();
        victim.board.wait_until(THREADS + 2);
    }
}

fn without_its_first_thread() {
    let victim = Victim::start("headless", THREADS - 1);
    let mut seizer = Other::start();
    seizer.hold(victim.pid());
    assert_eq!(victim.board.moving(), 0);
    seizer.end();
    victim.board.wait_until(THREADS - 1);
}

fn a_moment_passes() {
    let victim = Victim::start("", THREADS);
    let mut seizer = Other::start();
    let answer = seizer.order("pass", victim.pid(), 0);
    assert_eq!(answer, format!("held {}", victim.pid()));
    victim.board.wait_until(THREADS);
    seizer.hold(victim.pid());
    let answer = seizer.order("pass", victim.pid(), 0);
    assert_eq!(answer, format!("held {}", victim.pid()));
    assert_eq!(victim.board.moving(), 0, "it is held");
    seizer.end();
    victim.board.wait_until(THREADS);
}

fn another_process_is_left_alone() {
    let victim = Victim::start("", THREADS);
    let mut seizer = Other::start();
    let answer = seizer.order("hold", victim.pid(), 1);
    assert_eq!(answer, format!("gone {}", victim.pid()));
    assert_eq!(victim.board.moving(), THREADS);
    seizer.end();
}

fn when_the_seizer_is_killed() {
    let victims = ["", "makes"].map(|how| Victim::start(how, THREADS + how.len().min(2)));
    for death in 0..20 {
        let mut seizer = Other::start();
        for victim in &victims {
            let ticks = stat(victim.pid())[19].clone() + "0000000";
            let orders = seizer.orders.as_mut().expect("it lives");
            writeln!(orders, "hold {} {ticks}", victim.pid()).expect("it lives");
        }
        thread::sleep(Duration::from_micros(death * 300));
        seizer.child.kill().expect("kill");
        seizer.child.wait().expect("it");
        victims[0].board.wait_until(THREADS);
        victims[1].board.wait_until(THREADS + 2);
    }
}
