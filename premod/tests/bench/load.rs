//! What time tells, and instructions do not: how fast events come, how late, and what premod keeps in memory.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    thread,
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{clock, detached::wait_until_detached, fill, watchers::wait_until_ready};

/// How many files are dirtied as fast as possible.
const RATE: usize = 10_000;
/// How many are dirtied while premod does not read.
const BURST: usize = 50_000;
/// How many modifications are waited for, one by one.
const PATIENT: usize = 500;

/// Measures everything in this directory and prints a JSON line for each figure.
pub(crate) fn run(place: &Path) {
    let files = clean_files(place, BURST);
    start_up(place);
    rate(place, &files[..RATE]);
    losses(place, &files[..RATE]);
    burst(place, &files);
    latency(place, &files[0]);
    memory(place);
}

fn figure(name: &str, value: f64) {
    println!("{}", json!({"figure": name, "value": value}));
}

/// premod, whose lines we read.
struct Trace {
    child: Child,
    lines: BufReader<ChildStdout>,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Trace {
    fn start(place: &Path) -> Self {
        Self::start_with(place, &[])
    }

    fn start_with(place: &Path, options: &[String]) -> Self {
        let mut child = Command::new("premod")
            .args(["trace", "--json"])
            .args(options)
            .arg(place)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("premod can be run");
        wait_until_ready(&mut child);
        let lines = BufReader::with_capacity(1 << 20, child.stdout.take().expect("a pipe"));
        let stderr = child.stderr.take().map(BufReader::new);
        Self {
            child,
            lines,
            stderr,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Reads as many lines.
    fn read(&mut self, count: usize) {
        let mut line = Vec::new();
        for _ in 0..count {
            line.clear();
            let length = self.lines.read_until(b'\n', &mut line).expect("a line");
            assert!(length > 0, "premod has ended");
        }
    }

    /// Ends it, and returns how many events were lost.
    fn lost(self) -> f64 {
        kill_process(self.pid(), Signal::TERM).expect("premod runs");
        self.lost_in_the_end()
    }

    /// Waits until it ends, and returns how many events were lost.
    fn lost_in_the_end(mut self) -> f64 {
        let mut text = String::new();
        self.lines.read_to_string(&mut text).expect("UTF-8");
        drop(self.stderr.take());
        self.child.wait().expect("premod ends");
        wait_until_detached();
        let summary = text.lines().last().expect("a summary");
        let summary: serde_json::Value = serde_json::from_str(summary).expect("JSON");
        summary["lost"].as_f64().expect("a number")
    }
}

fn clean_files(place: &Path, count: usize) -> Vec<PathBuf> {
    let directory = place.join("many");
    fs::create_dir_all(&directory).expect("a directory");
    let files: Vec<PathBuf> = (0..count).map(|n| directory.join(n.to_string())).collect();
    for file in &files {
        fs::write(file, "clean").expect("a file");
    }
    rustix::fs::sync();
    files
}

fn dirty(files: &[PathBuf]) {
    for file in files {
        let file = File::options().write(true).open(file).expect("the file");
        file.write_all_at(b"dirty", 0).expect("pwrite");
    }
}

fn start_up(place: &Path) {
    let began = Instant::now();
    let trace = Trace::start(place);
    figure("start-up in seconds", began.elapsed().as_secs_f64());
    trace.lost();
}

/// As fast as one task can, while another CPU takes the events.
fn rate(place: &Path, files: &[PathBuf]) {
    let mut trace = Trace::start(place);
    let busy = clock::process(trace.child.id());
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| dirty(files));
        trace.read(files.len());
    });
    let took = began.elapsed().as_secs_f64();
    let busy = (clock::process(trace.child.id()) - busy) as f64 / 1e9;
    figure("events per second", files.len() as f64 / took);
    figure("premod's share of a CPU at that rate", busy / took);
    figure("events lost at that rate", trace.lost());
    rustix::fs::sync();
}

/// Ring buffers whose loss is compared, in bytes: the default, and one that has room for a few hundred events.
const BUFFERS: [u32; 2] = [premod::DEFAULT_BUFFER_SIZE, 64 << 10];

/// How fast a file after the other is dirtied: so many each second, or as fast as can be.
const PACES: [Option<u32>; 4] = [Some(500), Some(2000), Some(4000), None];

/// What is lost at which rate.
fn losses(place: &Path, files: &[PathBuf]) {
    for buffer in BUFFERS {
        for pace in PACES {
            let options = ["--buffer-size".to_owned(), buffer.to_string()];
            let trace = Trace::start_with(place, &options);
            let pid = trace.pid();
            let (rate, lost) = thread::scope(|scope| {
                // It reads all the time, so that the pipe is never full.
                let lost = scope.spawn(|| trace.lost_in_the_end());
                let began = Instant::now();
                dirty_at(files, pace);
                let rate = files.len() as f64 / began.elapsed().as_secs_f64();
                kill_process(pid, Signal::TERM).expect("premod runs");
                (rate, lost.join().expect("premod ends"))
            });
            let lost = lost / files.len() as f64;
            println!("{}", json!({"buffer": buffer, "rate": rate, "lost": lost}));
            rustix::fs::sync();
        }
    }
}

fn dirty_at(files: &[PathBuf], pace: Option<u32>) {
    let Some(pace) = pace else {
        return dirty(files);
    };
    let began = Instant::now();
    // As many as a sleep can keep apart.
    for (number, some) in files.chunks(10).enumerate() {
        dirty(some);
        let due = f64::from(number as u32 + 1) * 10.0 / f64::from(pace);
        let wait = due - began.elapsed().as_secs_f64();
        if wait > 0.0 {
            thread::sleep(std::time::Duration::from_secs_f64(wait));
        }
    }
}

/// premod does not run while all of them are dirtied.
fn burst(place: &Path, files: &[PathBuf]) {
    let trace = Trace::start(place);
    kill_process(trace.pid(), Signal::STOP).expect("premod runs");
    dirty(files);
    kill_process(trace.pid(), Signal::CONT).expect("premod runs");
    // What is lost has no line of its own: the summary tells.
    figure("events lost of 50,000 at once", trace.lost());
    rustix::fs::sync();
}

fn latency(place: &Path, path: &Path) {
    let mut trace = Trace::start(place);
    let file = File::options().write(true).open(path).expect("the file");
    let mut times: Vec<f64> = (0..PATIENT)
        .map(|_| {
            file.sync_all().expect("fsync");
            let began = Instant::now();
            file.write_all_at(b"dirty", 0).expect("pwrite");
            trace.read(1);
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    figure(
        "microseconds from write to line, median",
        times[PATIENT / 2],
    );
    figure(
        "microseconds from write to line, 99 of 100",
        times[PATIENT * 99 / 100],
    );
    trace.lost();
}

fn memory(place: &Path) {
    let trace = Trace::start(place);
    for (count, name) in [
        (10_000, "10,000"),
        (100_000, "100,000"),
        (1_000_000, "1,000,000"),
    ] {
        let before = slab();
        let had = fill::entries();
        fill::inodes(count);
        let added = (fill::entries() - had).max(1) as f64;
        let each = (slab() - before) / added;
        figure(
            &format!("bytes in the kernel for each of {name} inodes"),
            each,
        );
        let status = fs::read_to_string(format!("/proc/{}/status", trace.child.id()));
        let resident = field(&status.expect("premod runs"), "VmRSS:");
        figure(
            &format!("MB resident with {name} inodes"),
            resident / 1024.0,
        );
    }
    trace.lost();
}

/// The kernel's own memory, in bytes.
fn slab() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
    (field(&text, "SUnreclaim:") + field(&text, "Percpu:")) * 1024.0
}

fn field(text: &str, name: &str) -> f64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    let word = rest.and_then(|rest| rest.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).expect(name)
}
