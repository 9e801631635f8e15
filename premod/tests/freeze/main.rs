//! Freezes under load: hammered files, databases, sudden deaths, and the pause that a writer sees. Runs inside
//! of the virtual machine only: `cargo xtask test` and `cargo xtask soak` take it there. See docs/soak.md.
//!
//! `premod-freeze PART DIRECTORY COUNT` is a test: it panics if a promise is broken. Other words make it one of
//! the programs that the tests run.

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
        ["transfer", kind, database, line, board] => {
            let line = line.parse().expect("a number");
            databases::transfer(kind, Path::new(database), line, Path::new(board));
        }
        ["copy", directory, ..] => {
            let files: Vec<PathBuf> = arguments[2..].iter().map(PathBuf::from).collect();
            databases::copy(Path::new(directory), &files).expect("a copy");
        }
        ["audit", kind, database] => return databases::audit(kind, Path::new(database)),
        [part, directory, count] => {
            let count = count.parse().expect("a number");
            let directory = Path::new(directory);
            std::fs::create_dir_all(directory).expect("mkdir");
            run(part, directory, count);
        }
        _ => {
            eprintln!("premod-freeze PART DIRECTORY COUNT");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn run(part: &str, directory: &Path, count: u32) {
    let board = Path::new(BOARD);
    match part {
        "hammer" => hammer::run(directory, board, count),
        "sqlite" | "lmdb" => databases::run(part, directory, board, count),
        "kills" => death::kills(directory, board, count),
        "ends" => death::ends(directory, board),
        "pause" => pause::run(directory, board, count),
        _ => panic!("there is no part {part}"),
    }
}
