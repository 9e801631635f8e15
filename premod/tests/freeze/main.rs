//! Freezes under load: hammered files, databases, sudden deaths, and the pause that a writer sees. Runs inside
//! of the virtual machine only: `cargo xtask test` and `cargo xtask soak` take it there. See docs/soak.md.
//!
//! `premod-freeze PART COUNT DIRECTORY...` is a test: it panics if a promise is broken. The directories are on the
//! filesystems that it is about, and what is in them is frozen as one set. Other words make it one of the programs
//! that the tests run.

mod board;
mod checker;
mod databases;
mod death;
mod hammer;
mod lmdb;
mod mapping;
mod pause;
mod premod;
mod process;
mod queues;
mod region;
mod servers;
mod size;
mod sqlite;
mod writer;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What the tests' processes share. Nobody freezes it: premod refuses tmpfs.
const BOARD: &str = "/dev/shm/premod-freeze";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["check", ..] => return checker::run(&arguments[1..]),
        ["write", kind, board, ..] => {
            let files: Vec<PathBuf> = arguments[3..].iter().map(PathBuf::from).collect();
            writer::run(kind, Path::new(board), &files);
        }
        ["sleep", seconds] => death::sleep(seconds.parse().expect("seconds")),
        ["transfer", kind, database, teller, line, board] => {
            let number = |word: &str| word.parse().expect("a number");
            let (database, board) = (Path::new(database), Path::new(board));
            databases::transfer(kind, database, number(teller), number(line), board);
        }
        ["copy", ..] => {
            let words: Vec<PathBuf> = arguments[1..].iter().map(PathBuf::from).collect();
            databases::copy(&words).expect("a copy");
        }
        ["audit", kind, database] => return databases::audit(kind, Path::new(database)),
        [part, count, _, ..] => {
            let count = count.parse().expect("a number");
            let directories: Vec<PathBuf> = arguments[2..].iter().map(PathBuf::from).collect();
            for directory in &directories {
                std::fs::create_dir_all(directory).expect("mkdir");
            }
            run(part, count, &directories);
        }
        _ => {
            eprintln!("premod-freeze PART COUNT DIRECTORY...");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn run(part: &str, count: u32, directories: &[PathBuf]) {
    let board = Path::new(BOARD);
    match part {
        "hammer" => hammer::run(directories, board, count),
        "databases" => databases::run(directories, board, count),
        "servers" | "postgres" | "mariadb" | "mariadb-uring" => {
            servers::run(part, directories, count);
        }
        "kills" => death::kills(directories, board, count),
        "ends" => death::ends(directories, board, count),
        "pause" => directories
            .iter()
            .for_each(|directory| pause::run(directory, board, count)),
        _ => panic!("there is no part {part}"),
    }
}

/// Three files in each directory.
fn three_files(directories: &[PathBuf]) -> Vec<PathBuf> {
    let files = |directory: &PathBuf| ["a", "b", "c"].map(|name| directory.join(name));
    directories.iter().flat_map(files).collect()
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}
