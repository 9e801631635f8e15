//! The part `pause`: how long a writer stands still for a copy, which is what a freeze costs.

use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering::SeqCst,
};

use crate::{board::Board, premod::Freeze, writer::Crew};

/// Milliseconds between two operations of a writer, which are part of every pause.
const PACE: u64 = 1;
/// Bytes in the file that is copied.
const SIZE: u64 = 16 << 20;

/// Freezes the file for one copy after the other, and prints the pauses.
pub(crate) fn run(directory: &Path, board_path: &Path, freezes: u32) {
    let file = directory.join("paused");
    let kinds = ["calls", "store"];
    let mut crew = Crew::start(board_path, std::slice::from_ref(&file), &kinds, PACE);
    fill(&file);
    let board = Board::open(board_path, false);
    let copy = directory.join("copy");
    let [file, copy]: [&str; 2] =
        [&file, &copy].map(|path: &PathBuf| path.to_str().expect("a plain path"));
    for (reflink, name) in [("always", "cp --reflink"), ("never", "cp, all bytes")] {
        let mut pauses = [Vec::new(), Vec::new()];
        for _ in 0..freezes {
            let _ = std::fs::remove_file(copy);
            crew.progress(20);
            let lines = [0, 5].map(|number| &board.lines[number]);
            lines.iter().for_each(|line| line.gap.store(0, SeqCst));
            let reflink = format!("--reflink={reflink}");
            let command = ["cp", &reflink, file, copy];
            let ended = Freeze::start(&[&[file, "--hold", "--"][..], &command].concat()).end();
            if name == "cp --reflink" && ended.status.code() == Some(1) {
                // This filesystem has none.
                break;
            }
            ended.expect(0);
            crew.progress(20);
            for (pauses, line) in pauses.iter_mut().zip(lines) {
                pauses.push(line.gap.load(SeqCst));
            }
        }
        for (pauses, writer) in pauses.iter_mut().zip(["pwrite", "store"]) {
            report(name, writer, pauses);
        }
        crew.check();
    }
    crew.finish();
}

/// Makes the file longer: the writers have the beginning of it.
fn fill(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path);
    let file = file.expect("open");
    let chunk = vec![b'x'; 1 << 20];
    for offset in (1 << 20..SIZE).step_by(chunk.len()) {
        file.write_all_at(&chunk, offset).expect("room");
    }
    file.sync_all().expect("fsync");
}

fn report(name: &str, writer: &str, pauses: &mut [u64]) {
    pauses.sort_unstable();
    let Some(last) = pauses.len().checked_sub(1) else {
        return;
    };
    let at = |part: usize| pauses[last * part / 100] / 1000;
    println!(
        "{name:<16} {writer:<8} {:>4} freezes, pause in µs: p50 {:>9} p99 {:>9} max {:>9}",
        pauses.len(),
        at(50),
        at(99),
        pauses[last] / 1000,
    );
}
