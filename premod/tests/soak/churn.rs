//! The part `churn`: files are created, written and deleted as fast as possible, and what premod keeps of
//! them must not grow.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::Ordering::SeqCst,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Options,
    board::{Board, Phase},
    crew::{Crew, WORKERS},
    files,
    mapping::Mapping,
    maps::{Inodes, resident, slab},
    trace::Trace,
};

/// Files that each process keeps before it deletes the oldest.
const WINDOW: usize = 64;
/// Files that each process leaves behind at the end.
const LEFT: u64 = 1000;
/// Time between two looks at the map.
const LOOK: Duration = Duration::from_secs(15);
/// Entries that may be in the map beyond those of existing files: inodes that are on their way out.
const SLACK: u64 = 2000;
/// Entries that may be left when every inode has been evicted.
const REST: u64 = 100;

/// How much there was at one moment.
#[derive(Clone, Copy, Default)]
struct Look {
    entries: u64,
    map: u64,
    resident: u64,
    slab: u64,
    unreclaimable: u64,
}

/// Creates, writes and deletes until the board says that it is over; leaves some files then.
pub(crate) fn work(directory: &Path, number: u8, seed: u64) {
    let board = Board::open(&directory.join("board"), false);
    let mut random = fastrand::Rng::with_seed(seed);
    let homes: Vec<PathBuf> = files::mounts()
        .iter()
        .map(|(_, mount)| files::traced(mount).join(format!("churn{number}")))
        .collect();
    for home in &homes {
        fs::create_dir_all(home).expect("a directory");
    }
    let bytes = [b'x'; 4096];
    let mut kept = VecDeque::new();
    let mut left = 0;
    for file in 0_u64.. {
        match board.phase() {
            Phase::Wait => {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            Phase::Work => {}
            Phase::End if left < LEFT => left += 1,
            Phase::End => return,
        }
        if board.pause.load(SeqCst) > 0 {
            board.resting.fetch_add(1, SeqCst);
            while board.pause.load(SeqCst) > 0 {
                thread::sleep(Duration::from_millis(10));
            }
            board.resting.fetch_sub(1, SeqCst);
        }
        let path = homes[file as usize % homes.len()].join(file.to_string());
        make(
            &path,
            &bytes[..random.usize(1..bytes.len())],
            random.u32(0..8) == 0,
        );
        board.churned.fetch_add(1, SeqCst);
        kept.push_back(path);
        if left == 0 && kept.len() > WINDOW {
            let oldest = kept.pop_front().expect("the oldest");
            fs::remove_file(oldest).expect("our own file");
        }
    }
}

fn make(path: &Path, bytes: &[u8], mapped: bool) {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .expect("a new file");
    file.write_all(bytes).expect("room");
    if mapped {
        let mut mapping = Mapping::shared(&file, bytes.len()).expect("a mapping");
        assert!(mapping.store(0, b"y"), "nobody truncates the file");
    }
}

/// Runs the part, prints its numbers, and says whether the map stayed small.
pub(crate) fn run(options: &Options, directory: &Path, duration: Duration) -> ExitCode {
    let mounts = files::mounts();
    let board = Board::open(&directory.join("board"), true);
    let traced: Vec<PathBuf> = mounts
        .iter()
        .map(|(_, mount)| files::traced(mount))
        .collect();
    for traced in &traced {
        files::lay_out(traced);
    }
    // An event for each file would keep the machine busy with JSON. The summary counts them before the
    // filter.
    let mut arguments = vec!["--comm", "nobody"];
    arguments.extend(
        traced
            .iter()
            .map(|path| path.to_str().expect("a plain path")),
    );
    let trace = Trace::start_with(&traced[0], &arguments);
    let crew = Crew::start("churner", directory, options.seed);
    let inodes = Inodes::find();
    let look = || Look::take(&inodes, trace.pid());
    let first = look();
    println!("{:>9} {}", "files", Look::HEADER);
    first.print(0);
    let mut peak = first;
    board.enter(Phase::Work);
    let began = Instant::now();
    while began.elapsed() < duration {
        thread::sleep(LOOK.min(duration.saturating_sub(began.elapsed())));
        rest(board);
        let now = look();
        now.print(board.churned.load(SeqCst));
        board.pause.store(0, SeqCst);
        peak = peak.most(now);
    }
    let elapsed = began.elapsed();
    let churned = board.churned.load(SeqCst);
    board.enter(Phase::End);
    crew.finish();
    let left = look();
    left.print(board.churned.load(SeqCst));
    // What is dirty cannot be evicted, and evicting one inode may let go of others.
    for _ in 0..3 {
        rustix::fs::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").expect("the sysctl");
        thread::sleep(Duration::from_secs(1));
    }
    let end = look();
    end.print(board.churned.load(SeqCst));
    let peak_resident = resident(trace.pid()).1;
    let ended = trace.end();
    let all = board.churned.load(SeqCst);
    let events = ended.summary["events"].as_u64().expect("a count");
    let lost = ended.summary["lost"].as_u64().expect("a count");
    println!(
        "{churned} files created, written and deleted in {} s, {} more left behind\n\
         {events} events, {lost} lost ({} of them skipped by the kernel), {} late\n\
         entries: {} at most during the churn ({} files exist then), {} with all files left behind, \
         {} after drop_caches\n\
         premod's resident memory: {} KB at most",
        elapsed.as_secs(),
        all - churned,
        ended.skipped,
        ended.summary["late"],
        peak.entries,
        WINDOW * usize::from(WORKERS),
        left.entries,
        end.entries,
        peak_resident >> 10,
    );
    let existing = (WINDOW * usize::from(WORKERS)) as u64;
    let mut wrong = Vec::new();
    if events + lost < all {
        wrong.push(format!("{all} files were written, and {events} announced"));
    }
    if peak.entries > existing + SLACK {
        wrong.push(format!("the map grew to {} entries", peak.entries));
    }
    if left.entries < LEFT * u64::from(WORKERS) {
        wrong.push(format!(
            "only {} entries for the files left behind",
            left.entries
        ));
    }
    if end.entries > REST {
        wrong.push(format!("{} entries outlived their inodes", end.entries));
    }
    for wrong in &wrong {
        eprintln!("soak: {wrong}");
    }
    if wrong.is_empty() {
        println!("the map does not grow");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Waits until no process creates or deletes anything.
fn rest(board: &Board) {
    board.pause.store(1, SeqCst);
    let deadline = Instant::now() + Duration::from_secs(60);
    while board.resting.load(SeqCst) < WORKERS.into() {
        assert!(Instant::now() < deadline, "a worker does not rest");
        thread::sleep(Duration::from_millis(10));
    }
}

impl Look {
    const HEADER: &'static str = "  entries   map KB  premod KB   slab KB  unreclaimable KB";

    fn take(inodes: &Inodes, pid: u32) -> Self {
        let (slab, unreclaimable) = slab();
        Self {
            entries: inodes.entries(),
            map: inodes.memory(),
            resident: resident(pid).0,
            slab,
            unreclaimable,
        }
    }

    fn print(&self, files: u64) {
        println!(
            "{files:>9} {:>9} {:>8} {:>10} {:>9} {:>17}",
            self.entries,
            self.map >> 10,
            self.resident >> 10,
            self.slab >> 10,
            self.unreclaimable >> 10
        );
    }

    fn most(self, other: Self) -> Self {
        Self {
            entries: self.entries.max(other.entries),
            map: self.map.max(other.map),
            resident: self.resident.max(other.resident),
            slab: self.slab.max(other.slab),
            unreclaimable: self.unreclaimable.max(other.unreclaimable),
        }
    }
}
