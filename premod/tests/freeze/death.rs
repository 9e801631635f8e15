//! The parts `kills` and `ends`: however a freeze ends, everybody runs again within a second, and nobody who
//! was stopped by others is continued.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    board::{Board, now},
    premod::{Ended, Freeze},
    process, three_files,
    writer::Crew,
};

/// The promise.
const SOON: u64 = 1_000_000_000;
/// Milliseconds between two operations of a writer: it is not about load here.
const PACE: u64 = 50;
/// Operations that every writer completes before a freeze begins.
const BEFORE: u64 = 2;

/// CMD: sleeps, but not longer than premod lives.
pub(crate) fn sleep(seconds: u64) {
    let parent = rustix::process::getppid();
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end && rustix::process::getppid() == parent {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Files, and writers at work.
struct Scene {
    files: Vec<String>,
    crew: Crew,
    slowest: u64,
}

impl Scene {
    fn start(directories: &[PathBuf], board: &Path) -> Self {
        let files = three_files(directories);
        let crew = Crew::start(board, &files, &[], PACE);
        let name = |file: PathBuf| file.to_str().expect("a plain path").to_owned();
        Self {
            files: files.into_iter().map(name).collect(),
            crew,
            slowest: 0,
        }
    }

    /// Starts `premod freeze --hold` with a CMD.
    fn freeze(&self, options: &[&str], command: &[&str]) -> Freeze {
        self.crew.progress(BEFORE);
        let mut words: Vec<&str> = self.files.iter().map(String::as_str).collect();
        words.push("--hold");
        words.extend(options);
        if !command.is_empty() {
            words.push("--");
            words.extend(command);
        }
        Freeze::start(&words)
    }

    /// How many writers are stopped.
    fn stopped(&self) -> usize {
        let processes = self.crew.processes();
        let stopped = processes
            .iter()
            .filter(|(_, pid)| process::is_stopped(*pid));
        stopped.count()
    }

    /// Waits until somebody is stopped.
    fn wait_for_holds(&self) {
        process::wait_for("somebody is held", || self.stopped() > 0);
    }

    /// Everybody has to complete an operation within a second from `since`, the end of what.
    fn expect_all_to_run(&mut self, since: u64, what: &str) {
        let mut waiting: Vec<_> = self
            .crew
            .numbers()
            .into_iter()
            .zip(self.crew.lines())
            .collect();
        while !waiting.is_empty() {
            let seen = now();
            waiting.retain(|(_, line)| line.last() <= since);
            if waiting.is_empty() {
                self.slowest = self.slowest.max(seen.saturating_sub(since));
            }
            if seen > since + SOON && !waiting.is_empty() {
                let late: Vec<_> = waiting.iter().map(|(number, _)| number).collect();
                let states = self.states();
                panic!("a second after {what}, the writers {late:?} do not run: {states:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            self.stopped(),
            0,
            "after {what}, somebody was left stopped: {:?}",
            self.states()
        );
        self.crew.check();
    }

    fn states(&self) -> Vec<(&'static str, char)> {
        let processes = self.crew.processes().into_iter();
        processes
            .map(|(kind, pid)| (kind, process::state(pid)))
            .collect()
    }

    fn finish(self, what: &str) {
        let slowest = self.slowest / 1_000_000;
        self.crew.finish();
        println!("{what}: everybody ran again within {slowest} ms");
    }
}

/// Our own program, as a CMD that sleeps.
fn sleeper(seconds: &str) -> [String; 3] {
    let program = std::env::current_exe().expect("our own path");
    let program = program.to_str().expect("a plain path").to_owned();
    [program, "sleep".to_owned(), seconds.to_owned()]
}

/// Kills premod, its keeper, or both at random moments.
pub(crate) fn kills(directories: &[PathBuf], board: &Path, kills: u32) {
    let mut scene = Scene::start(directories, board);
    let mut random = fastrand::Rng::with_seed(u64::from(kills));
    let sleeper = sleeper("60");
    let sleeper = sleeper.each_ref().map(String::as_str);
    let (mut with_holds, mut on_the_way) = (0, 0);
    let (mut keepers, mut both) = (0, 0);
    let mut longest = Duration::from_secs(1);
    for number in 0..kills {
        let began = Instant::now();
        let mut freeze = scene.freeze(&["--timeout", "60s"], &sleeper);
        if number % 2 == 0 {
            freeze.frozen();
            longest = longest.max(began.elapsed());
            // Time to be held.
            thread::sleep(Duration::from_millis(random.u64(0..500)));
        } else {
            // Somewhere on the way.
            thread::sleep(longest.mul_f64(random.f64()));
        }
        with_holds += u32::from(scene.stopped() > 0);
        on_the_way += u32::from(!freeze.is_frozen());
        let (killed, what) = match random.u8(0..4) {
            0 => {
                kill_keeper(&freeze);
                thread::sleep(Duration::from_millis(random.u64(0..300)));
                keepers += 1;
                freeze.signal(Signal::TERM);
                freeze.wait();
                (now(), "the end of a freeze without a keeper")
            }
            1 => {
                // It must not start another one.
                freeze.signal(Signal::STOP);
                kill_keeper(&freeze);
                both += 1;
                freeze.signal(Signal::KILL);
                freeze.wait();
                recover();
                (now(), "the death of both")
            }
            _ => {
                let killed = now();
                freeze.signal(Signal::KILL);
                (killed, "the death of premod")
            }
        };
        scene.expect_all_to_run(killed, what);
        freeze.end();
    }
    assert!(
        with_holds > 0,
        "nobody was ever held when premod was killed"
    );
    scene.finish(&format!(
        "{kills} kills ({keepers} of the keeper, {both} of both), {with_holds} with somebody stopped, {on_the_way} before the files were frozen"
    ));
}

/// Kills the keeper, if there is one yet.
fn kill_keeper(freeze: &Freeze) {
    for keeper in process::children(freeze.pid(), "keeper") {
        process::signal(keeper, Signal::KILL);
    }
}

/// Continues those that were stopped, and whom nobody else would continue.
fn recover() {
    let output = Command::new("premod").args(["thaw", "--recover"]).output();
    let output = output.expect("premod can be run");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// The other ends, each so many times.
pub(crate) fn ends(directories: &[PathBuf], board: &Path, times: u32) {
    let mut scene = Scene::start(directories, board);
    for time in 0..times {
        timeout(&mut scene);
        let signal = [Signal::TERM, Signal::INT][time as usize % 2];
        terminated(&mut scene, signal);
        command_fails(&mut scene, time);
        if time % 2 == 1 {
            clock_is_set(&mut scene);
        }
        keeper_is_killed(&mut scene);
        stopped_by_others(&mut scene, board);
    }
    scene.finish(&format!("other ends, {times} times"));
}

/// A CMD that takes longer than the timeout: the hooks let everybody go by themselves, whatever premod is doing
/// at that moment. The clock on the wall is set meanwhile, and means nothing.
fn timeout(scene: &mut Scene) {
    // premod ends with CMD, whatever has become of the freeze.
    let sleeper = sleeper("6");
    let sleeper = sleeper.each_ref().map(String::as_str);
    let mut freeze = scene.freeze(&["--timeout", "3s"], &sleeper);
    freeze.frozen();
    let frozen = now();
    set_clock(false);
    scene.wait_for_holds();
    process::wait_for("the end of the freeze", || {
        scene.stopped() == 0 || now() > frozen + 3 * SOON
    });
    // The time counts from a moment before this one.
    scene.expect_all_to_run(now().min(frozen + 3 * SOON), "the timeout");
    set_clock(true);
    freeze.end().expect(17);
}

fn terminated(scene: &mut Scene, signal: Signal) {
    let sleeper = sleeper("4");
    let sleeper = sleeper.each_ref().map(String::as_str);
    let mut freeze = scene.freeze(&[], &sleeper);
    freeze.frozen();
    scene.wait_for_holds();
    let killed = now();
    freeze.signal(signal);
    scene.expect_all_to_run(killed, "a signal");
    let ended = freeze.end();
    assert_ne!(ended.status.code(), Some(0), "CMD did not end: {ended:?}");
}

fn command_fails(scene: &mut Scene, time: u32) {
    let commands = [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["/no/such/program"], 127),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["/dev"], 126),
    ];
    for (command, code) in commands.into_iter().skip(2 * (time as usize % 2)).take(2) {
        scene.freeze(&[], command).end().expect(code);
        scene.expect_all_to_run(now(), "the end of CMD");
    }
}

/// Deadlines are not kept by the clock on the wall: a freeze does not end early, or late, when that is set.
fn clock_is_set(scene: &mut Scene) {
    let sleeper = sleeper("1");
    let sleeper = sleeper.each_ref().map(String::as_str);
    for forward in [true, false] {
        let mut freeze = scene.freeze(&["--timeout", "60s"], &sleeper);
        freeze.frozen();
        scene.wait_for_holds();
        set_clock(forward);
        freeze.end().expect(0);
        scene.expect_all_to_run(now(), "the end of CMD");
    }
}

/// Sets the clock an hour forward, or back.
fn set_clock(forward: bool) {
    let realtime = rustix::time::ClockId::Realtime;
    let mut time = rustix::time::clock_gettime(realtime);
    time.tv_sec += if forward { 3600 } else { -3600 };
    rustix::time::clock_settime(realtime, time).expect("clock_settime");
}

/// Nobody is left who could continue the writers. Those that were seized go on by themselves; `thaw --recover` continues those
/// that were stopped.
fn keeper_is_killed(scene: &mut Scene) {
    let sleeper = sleeper("60");
    let sleeper = sleeper.each_ref().map(String::as_str);
    let mut freeze = scene.freeze(&[], &sleeper);
    freeze.frozen();
    scene.wait_for_holds();
    let keepers = process::children(freeze.pid(), "keeper");
    assert_eq!(keepers.len(), 1, "the keeper");
    // It must not start another one.
    freeze.signal(Signal::STOP);
    process::signal(keepers[0], Signal::KILL);
    freeze.signal(Signal::KILL);
    freeze.end();
    recover();
    scene.expect_all_to_run(now(), "thaw --recover");
    // Once more: there is nothing to do.
    recover();
    scene.expect_all_to_run(now(), "thaw --recover");
}

/// Who was stopped before, or is stopped by somebody else while it is held, stays so.
fn stopped_by_others(scene: &mut Scene, board: &Path) {
    let board = Board::open(board, false);
    let processes = scene.crew.processes();
    let pid = |kind| {
        processes
            .iter()
            .find(|(name, _)| *name == kind)
            .expect("a writer")
            .1
    };
    let (one, threads) = (pid("direct"), pid("stores"));
    let (call, store) = (pid("aio"), pid("store"));
    scene.crew.progress(BEFORE);
    for stopped in [one, threads] {
        process::signal(stopped, Signal::STOP);
        process::wait_for("it is stopped", || process::is_stopped(stopped));
    }
    let sleeper = sleeper("60");
    let sleeper = sleeper.each_ref().map(String::as_str);
    let mut words: Vec<&str> = scene.files.iter().map(String::as_str).collect();
    words.extend(["--hold", "--"]);
    words.extend(sleeper);
    let mut freeze = Freeze::start(&words);
    freeze.frozen();
    for (held, signal) in [(call, Signal::STOP), (store, Signal::TSTP)] {
        process::wait_for("it is held", || process::is_stopped(held));
        process::signal(held, signal);
    }
    let thawed = now();
    freeze.signal(Signal::TERM);
    let ended: Ended = freeze.end();
    for (line, name) in [(0, "write"), (8, "truncate")] {
        let line = &board.lines[line];
        process::wait_for(name, || line.last() > thawed);
    }
    thread::sleep(Duration::from_secs(1));
    for stopped in [one, threads, call, store] {
        assert_eq!(
            process::state(stopped),
            'T',
            "premod has continued {stopped}: {ended:?}"
        );
        process::signal(stopped, Signal::CONT);
    }
    scene.expect_all_to_run(now(), "SIGCONT");
}
