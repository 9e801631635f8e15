//! The soak: random operations by many processes at once, for as long as one likes. Runs inside of the
//! virtual machine only: `cargo xtask soak` takes it there. See docs/soak.md.

mod board;
mod changes;
mod checker;
mod churn;
mod crew;
mod files;
mod judge;
mod kinds;
mod mapping;
#[path = "../vm/maps.rs"]
mod maps;
mod operations;
mod report;
#[path = "../vm/trace.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod trace;
mod worker;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, ValueEnum};

/// Operates on the filesystems below /mnt while premod traces, and says what was not announced.
#[derive(Parser)]
struct Options {
    /// How long in all
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this part
    #[arg(long)]
    part: Option<Part>,
    /// Hide some events from the judge, who then has to find fault
    #[arg(long, hide = true)]
    blind: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every change of a file must be announced
    Changes,
    /// The map of inodes must not grow
    Churn,
}

/// Where the soak's processes have their board and their locks. Not traced: premod refuses tmpfs.
const SHARED: &str = "/dev/shm/premod-soak";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let [role @ ("worker" | "churner"), directory, number, seed] = words[..] {
        let number = number.parse().expect("a number");
        let seed = seed.parse().expect("a number");
        let work = if role == "worker" {
            worker::run
        } else {
            churn::work
        };
        work(Path::new(directory), number, seed);
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    // The periodic flusher would end clean periods whenever it likes.
    for interval in ["dirty_writeback_centisecs", "dirty_expire_centisecs"] {
        fs::write(format!("/proc/sys/vm/{interval}"), "360000").expect("the sysctl");
    }
    let parts = match options.part {
        Some(part) => vec![part],
        None => vec![Part::Changes, Part::Churn],
    };
    let duration = Duration::from_secs(options.minutes * 60 / parts.len() as u64);
    let mut failed = false;
    for part in parts {
        let directory = PathBuf::from(SHARED);
        // The board of the part before must not be in the way.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a directory in /dev/shm");
        let (name, run): (_, fn(&Options, &Path, Duration) -> ExitCode) = match part {
            Part::Changes => ("changes", changes::run),
            Part::Churn => ("churn", churn::run),
        };
        println!(
            "part {name}, {} s, seed {}",
            duration.as_secs(),
            options.seed
        );
        failed |= run(&options, &directory, duration) != ExitCode::SUCCESS;
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
