//! The part `hammer`: writers of every kind, and freezes in which no byte may change.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Instant,
};

use crate::{
    board::{Board, Line},
    plain,
    premod::Freeze,
    three_files,
    writer::{Crew, NAMES},
};

/// Milliseconds between two operations of a writer.
const PACE: u64 = 10;
/// Operations that every writer has to complete between two freezes.
const BETWEEN: u64 = 3;
/// How often it is tried to see a change without a freeze.
const TRIES: usize = 5;
/// Freezes with `--deny` after which every writer that makes system calls has to have been refused.
const MANY: u32 = 10;
/// The number of the writer with a ring.
const RING: usize = 3;

/// Freezes three files in each directory again and again, and prints what happened.
pub(crate) fn run(directories: &[PathBuf], board: &Path, freezes: u32) {
    let files = three_files(directories);
    let mut crew = Crew::start(board, &files, &[], PACE);
    let board = Board::open(board, false);
    crew.progress(BETWEEN);
    without_a_freeze_files_change(&files);
    let mut longest = 0;
    for number in 0..freezes {
        let deny = number % 2 == 1;
        crew.progress(BETWEEN);
        let before = counts(board, |line| &line.refused);
        let again = board.lines[RING].again.load(SeqCst);
        board.let_deny(deny);
        let began = Instant::now();
        freeze(&files, deny);
        longest = longest.max(began.elapsed().as_millis());
        // Whatever was refused has been noted when everybody has gone on.
        crew.progress(BETWEEN);
        board.let_deny(false);
        crew.check();
        let refused: u64 = counts(board, |line| &line.refused)
            .iter()
            .zip(before)
            .map(|(after, before)| after - before)
            .sum();
        assert_eq!(refused > 0, deny, "refused {refused} times, deny: {deny}");
        let again = board.lines[RING].again.load(SeqCst) - again;
        assert!(
            again <= 1,
            "a request was to be submitted again {again} times"
        );
    }
    let numbers = crew.numbers();
    crew.finish();
    println!("{freezes} freezes, the longest {longest} ms with premod's start, no byte changed");
    for number in numbers {
        let line = &board.lines[number];
        println!(
            "  {:<26} {:>7} done {:>7} refused {:>7} again",
            NAMES[number],
            line.done.load(SeqCst),
            line.refused.load(SeqCst),
            line.again.load(SeqCst),
        );
        let calls = !NAMES[number].starts_with("store");
        let refused = line.refused.load(SeqCst) > 0;
        assert!(
            refused || !calls || freezes / 2 < MANY,
            "{} was never refused",
            NAMES[number]
        );
    }
}

fn counts(board: &Board, count: fn(&Line) -> &AtomicU64) -> Vec<u64> {
    let load = |line| count(line).load(SeqCst);
    board.lines.iter().map(load).collect()
}

/// Runs the checker under a freeze. Its status has to come through.
fn freeze(files: &[PathBuf], deny: bool) {
    let names: Vec<&str> = files.iter().map(|file| plain(file)).collect();
    let mode = if deny { "--deny" } else { "--hold" };
    let checker = std::env::current_exe().expect("our own path");
    let checker = [plain(&checker), "check"];
    let options = [mode, "--timeout", "120s", "--"];
    let arguments = [&names[..], &options, &checker, &names].concat();
    let ended = Freeze::start(&arguments).end().expect(0);
    let report = ended.lines.last().expect("a report");
    assert_eq!(report["state"], "thawed", "{report}");
    assert_eq!(report["violations"]["count"], 0, "{report}");
}

/// The same check has to fail when nothing is frozen, or it would mean nothing.
fn without_a_freeze_files_change(files: &[PathBuf]) {
    for _ in 0..TRIES {
        let checker = Command::new("/proc/self/exe")
            .arg("check")
            .args(files)
            .output();
        if !checker.expect("the checker").status.success() {
            return;
        }
    }
    panic!("without a freeze the files did not change {TRIES} times");
}
