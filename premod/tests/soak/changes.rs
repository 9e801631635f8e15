//! The part `changes`: eight processes operate, three threads observe, and every change must have been
//! announced.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        atomic::Ordering::SeqCst,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Options,
    board::{Board, Entry, Phase, SLOTS},
    checker::Checker,
    crew::Crew,
    files::{self, LARGEST, Locks},
    judge::{Event, FileId, Judge, Period},
    kinds::Kind,
    maps, report,
    trace::{Trace, path_of},
};

/// How often the events are read and judged.
const ROUND: Duration = Duration::from_secs(1);
/// How often a line says how far it has come.
const REPORT: Duration = Duration::from_secs(30);
/// With `--blind`, the judge is not told of one event in this many.
const BLIND: u32 = 50;

/// What a period's operations were.
pub(crate) type Log = Vec<Entry>;

/// A trace, the judge, and what lies between.
struct Soak {
    mounts: Vec<(String, PathBuf)>,
    /// The processes that operate, by their numbers.
    workers: Vec<u32>,
    trace: Trace,
    judge: Judge<Log>,
    periods: Receiver<Period<Log>>,
    random: fastrand::Rng,
    blind: bool,
    /// First-dirty lines, the sentinels' too.
    lines: u64,
    /// How many of the trace's skips have been looked at.
    skips: usize,
    /// Programs that the kernel skipped, by their hooks.
    skipped: BTreeMap<String, u64>,
    /// What the process was doing that made a late event, as far as it is known.
    late: BTreeMap<&'static str, u64>,
}

/// Runs the part, prints its numbers, and says whether everything was announced.
pub(crate) fn run(options: &Options, directory: &Path, duration: Duration) -> ExitCode {
    let mounts = files::mounts();
    let board = Board::open(&directory.join("board"), true);
    prepare(&mounts, board);
    let mut crew = Crew::start("worker", directory, options.seed);
    let traced: Vec<PathBuf> = mounts
        .iter()
        .map(|(_, mount)| files::traced(mount))
        .collect();
    let paths: Vec<&str> = traced
        .iter()
        .map(|path| path.to_str().expect("a plain path"))
        .collect();
    let trace = Trace::start_with(&traced[0].join(files::SENTINELS), &paths);
    let (sender, periods) = channel();
    let mut soak = Soak {
        mounts,
        workers: crew.process_ids(),
        trace,
        judge: Judge::new(),
        periods,
        random: fastrand::Rng::with_seed(options.seed),
        blind: options.blind,
        lines: 0,
        skips: 0,
        skipped: BTreeMap::new(),
        late: BTreeMap::new(),
    };
    board.enter(Phase::Work);
    let checkers: Vec<_> = traced
        .iter()
        .enumerate()
        .map(|(number, traced)| {
            let locks = Locks::open(directory, soak.mounts.len());
            let seed = options.seed + 1000 + number as u64;
            let (traced, sender) = (traced.clone(), sender.clone());
            let checker = Checker::new(board, number, traced, locks, seed, sender);
            thread::spawn(move || checker.run())
        })
        .collect();
    drop(sender);
    let began = Instant::now();
    let mut reported = began;
    while began.elapsed() < duration {
        thread::sleep(ROUND);
        soak.round();
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            soak.progress(board, began.elapsed());
        }
        crew.check();
    }
    board.enter(Phase::End);
    let replaced = checkers
        .into_iter()
        .map(|checker| checker.join().expect("a checker"))
        .sum();
    crew.finish();
    soak.round();
    soak.finish(board, began.elapsed(), replaced)
}

/// Makes the files, with something in them.
fn prepare(mounts: &[(String, PathBuf)], board: &Board) {
    for (number, (_, mount)) in mounts.iter().enumerate() {
        let traced = files::traced(mount);
        files::lay_out(&traced);
        for slot in 0..SLOTS {
            let path = files::path(&traced, slot, 0);
            fs::write(&path, vec![b'0'; LARGEST as usize / 2]).expect("a new file");
            let inode = fs::File::open(&path)
                .and_then(|file| files::identify(number, &file))
                .expect("the file's identity")
                .inode;
            board.filesystems[number].slots[slot]
                .current
                .store(inode, SeqCst);
        }
    }
    rustix::fs::sync();
}

impl Soak {
    /// Reads all events so far and judges the periods that had ended before.
    fn round(&mut self) {
        let periods: Vec<Period<Log>> = self.periods.try_iter().collect();
        let records = self.trace.events();
        self.lines += 1;
        let known = std::mem::replace(&mut self.skips, self.trace.skips.len());
        for skip in &self.trace.skips[known..] {
            let hook = skip["hook"].as_str().expect("a hook");
            let count = skip["count"].as_u64().expect("a count");
            *self.skipped.entry(hook.to_owned()).or_default() += count;
            self.judge
                .lose(skip["mono_ns"].as_u64().expect("a time"), hook);
        }
        for record in records {
            if record["type"] == "lost" {
                let noticed = record["mono_ns"].as_u64().expect("a time");
                self.judge.lose(noticed, "the buffer");
                continue;
            }
            self.lines += 1;
            // A sentinel that had to be written twice; its first event was not ours to hear.
            let parent = path_of(&record).parent().map(Path::to_owned);
            if parent.is_some_and(|parent| parent.ends_with(files::SENTINELS)) {
                continue;
            }
            if self.blind && self.random.u32(0..BLIND) == 0 {
                continue;
            }
            let file = self.file_of(&record);
            self.judge.hear(file, event_of(&record));
        }
        for period in periods {
            for event in self.judge.judge(&period) {
                if !event.pre {
                    let during = self.operation(&event, &period.log);
                    *self.late.entry(during).or_default() += 1;
                }
            }
        }
    }

    /// The operation that an event came from: the one that its process completed next.
    fn operation(&self, event: &Event, log: &Log) -> &'static str {
        let worker = self
            .workers
            .iter()
            .position(|pid| u64::from(*pid) == event.pid);
        let next =
            |entry: &&Entry| Some(usize::from(entry.worker)) == worker && entry.at > event.mono_ns;
        // Only the last operations of a period are in its log.
        let complete = log.first().is_some_and(|entry| entry.at < event.mono_ns);
        match log.iter().find(next) {
            Some(entry) if complete => entry.kind.name(),
            _ => "not known",
        }
    }

    fn file_of(&self, record: &Value) -> FileId {
        let kind = record["fs"].as_str().expect("a filesystem");
        let number = |name: &str| record[name].as_u64().expect("a number");
        FileId {
            filesystem: self
                .mounts
                .iter()
                .position(|(mounted, _)| mounted == kind)
                .expect("one of our filesystems"),
            inode: number("inode"),
            generation: number("igen") as u32,
        }
    }

    fn progress(&self, board: &Board, elapsed: Duration) {
        let numbers = &self.judge.numbers;
        let operations: u64 = Kind::all().map(|kind| board.counted(kind).0).sum();
        eprintln!(
            "soak: {} s: {operations} operations, {} periods, {} events, {} faults",
            elapsed.as_secs(),
            numbers.periods,
            numbers.events,
            self.judge.faults.len(),
        );
    }

    fn finish(self, board: &Board, elapsed: Duration, replaced: u64) -> ExitCode {
        let delivered = maps::delivered();
        let ended = self.trace.end();
        let summary = &ended.summary;
        let count = |name: &str| summary[name].as_u64().expect("a count");
        report::operations(board, elapsed);
        report::periods(&self.judge.numbers, replaced);
        let number = report::number;
        number(
            "echoes that premod dropped",
            delivered.saturating_sub(self.lines),
        );
        number("late, by premod's summary", count("late"));
        for (during, late) in &self.late {
            number(&format!("  in an observed period, during: {during}"), *late);
        }
        number("lost, by premod's summary", count("lost"));
        number(
            "  of these: the buffer was full",
            count("lost") - ended.skipped,
        );
        number(
            "  of these: skipped by the kernel (recursion misses)",
            ended.skipped,
        );
        for (hook, skipped) in &self.skipped {
            number(&format!("    while it was observed, at {hook}"), *skipped);
        }
        number("untracked, by premod's summary", count("untracked"));
        report::verdict(&self.mounts, &self.judge)
    }
}

fn event_of(record: &Value) -> Event {
    let number = |name: &str| record[name].as_u64().expect("a number");
    let nameless = record["deleted"] == true;
    let name = path_of(record)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    Event {
        mono_ns: number("mono_ns"),
        pre: record["pre"] == true,
        generation: number("generation"),
        untracked: record["untracked"] == true,
        op: record["op"].as_str().expect("a word").to_owned(),
        pid: number("pid"),
        name: if nameless {
            None
        } else {
            Some(name.unwrap_or_default())
        },
    }
}
