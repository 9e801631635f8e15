//! The benchmark: what premod costs those who write, beside its peers. Runs inside of the virtual machine only:
//! `cargo xtask bench` takes it there, and makes docs/benchmarks.md of what it says.
//!
//! Prints a JSON line for each operation and each watcher.

mod clock;
#[path = "../vm/detached.rs"]
mod detached;
mod fill;
mod listener;
mod load;
mod operations;
mod watchers;
mod workloads;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use serde_json::json;

use clock::Clock;
use listener::Kind;
use operations::Operation;
use watchers::{Place, WATCHERS, Watching};

/// Counts instructions of operations on a file while somebody watches.
#[derive(Parser)]
struct Options {
    /// Fewer samples, and only what the regression gate looks at
    #[arg(long)]
    quick: bool,
    /// Only watchers whose name contains this, and nobody
    #[arg(long, default_value = "")]
    watcher: String,
    /// Only operations whose name contains this
    #[arg(long, default_value = "")]
    operation: String,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Measures what takes time, not instructions
    Load,
    /// Listens to fanotify, as one of the watchers
    Listen {
        /// modify or pre-access
        kind: String,
        /// A mount point
        mount: PathBuf,
    },
}

const MOUNT: &str = "/mnt/test";

fn main() {
    let options = Options::parse();
    if let Some(Role::Listen { kind, mount }) = &options.role {
        let kind = Kind::of(kind).expect("modify or pre-access");
        return listener::run(kind, mount);
    }
    // The periodic flusher would clean pages whenever it likes.
    for interval in ["dirty_writeback_centisecs", "dirty_expire_centisecs"] {
        fs::write(format!("/proc/sys/vm/{interval}"), "360000").expect("the sysctl");
    }
    // A path of six components, mount points included.
    let inside = Path::new(MOUNT).join("srv/data/base");
    let outside = Path::new(MOUNT).join("elsewhere");
    for directory in [&inside, &outside] {
        fs::create_dir_all(directory).expect("a directory");
    }
    fs::write(outside.join("frozen"), "frozen").expect("a file");
    if matches!(options.role, Some(Role::Load)) {
        return load::run(&inside);
    }
    clock::run_first();
    let place = Place {
        mount: Path::new(MOUNT),
        inside: &inside,
        outside: &outside,
    };
    let all = operations::OPERATIONS.iter().chain(workloads::WORKLOADS);
    let chosen: Vec<&Operation> = all
        .filter(|operation| operation.quick || !options.quick)
        .filter(|operation| operation.name.contains(&options.operation))
        .collect();
    let watchers = WATCHERS
        .iter()
        .filter(|watcher| watcher.quick || !options.quick)
        .filter(|watcher| {
            watcher.name.starts_with("nobody") || watcher.name.contains(&options.watcher)
        });
    // The first of everything costs more: caches are empty, and code is patched for good.
    for watcher in WATCHERS.iter().take(2) {
        let watching = watcher.start(&place);
        for operation in &chosen {
            measure(operation, &inside, true);
        }
        drop(watching);
    }
    for watcher in watchers {
        eprintln!("{} ...", watcher.name);
        let watching = match watcher.start(&place) {
            Ok(watching) => watching,
            Err(why) => {
                println!("{}", json!({"watcher": watcher.name, "absent": why}));
                continue;
            }
        };
        for operation in &chosen {
            let counts = measure(operation, &inside, options.quick);
            println!(
                "{}",
                json!({
                    "watcher": watcher.name,
                    "operation": operation.name,
                    "instructions": counts[counts.len() / 2],
                    "least": counts[0],
                    "most": counts[counts.len() - 1],
                    "samples": counts.len(),
                    "exact": operation.exact,
                })
            );
        }
        if options.operation.is_empty()
            && let Some((event, second)) = events(&inside, &watching)
        {
            println!(
                "{}",
                json!({"watcher": watcher.name, "per_event": event, "idle": second})
            );
        }
        if watcher.name == "premod trace, file inside" {
            for (program, verified) in fill::verified() {
                println!("{}", json!({"program": program, "verified": verified}));
            }
        }
        drop(watching);
    }
}

/// How many files are dirtied, each once, for the cost of an event to whoever is told.
const EVENTS: u64 = 1000;

/// Instructions of the watcher, its system calls included: for each file that is dirtied, and in a second in which
/// nothing happens. The former are without the latter.
fn events(place: &Path, watching: &Watching) -> Option<(u64, u64)> {
    let files: Vec<PathBuf> = (0..EVENTS)
        .map(|number| place.join(format!("event-{number}")))
        .collect();
    for file in &files {
        fs::write(file, "clean").expect("a file");
    }
    rustix::fs::sync();
    thread::sleep(IDLE);
    let second = second(watching)?;
    let (before, began) = (watching.time()?, Instant::now());
    for file in &files {
        // Not truncated: ext4 would write it back at once, and the watcher's time be that of the disk's interrupts.
        let file = fs::File::options().write(true).open(file);
        file.expect("the file")
            .write_all(b"dirty")
            .expect("a write");
    }
    thread::sleep(IDLE);
    let nothing = second * began.elapsed().as_secs_f64();
    let busy = (watching.time()? - before) as f64;
    let each = (busy - nothing).max(0.0) / EVENTS as f64;
    Some((each as u64, second as u64))
}

/// What the watcher takes in a second in which nothing happens.
fn second(watching: &Watching) -> Option<f64> {
    let (before, began) = (watching.time()?, Instant::now());
    thread::sleep(2 * IDLE);
    let busy = (watching.time()? - before) as f64;
    Some(busy / began.elapsed().as_secs_f64())
}

/// How long a watcher takes at most until it has nothing to do.
const IDLE: Duration = Duration::from_secs(1);

/// Instructions of each sample, sorted.
fn measure(operation: &Operation, place: &Path, quick: bool) -> Vec<u64> {
    let mut sample = (operation.prepare)(place);
    let nothing = overhead(operation.clock);
    let warm_up = if operation.clock == Clock::Children {
        1
    } else {
        10
    };
    let wanted = operation.samples[usize::from(!quick)];
    let mut counts = Vec::with_capacity(wanted);
    for number in 0..warm_up + wanted {
        sample.before();
        clock::let_others_run();
        sample.ready();
        let began = operation.clock.now();
        sample.run();
        let count = operation.clock.now() - began;
        if number >= warm_up {
            counts.push(count.saturating_sub(nothing));
        }
    }
    counts.sort_unstable();
    counts
}

/// What reading the clock costs by itself.
fn overhead(clock: Clock) -> u64 {
    let mut counts: Vec<u64> = (0..21)
        .map(|_| {
            let began = clock.now();
            clock.now() - began
        })
        .collect();
    counts.sort_unstable();
    counts[10]
}
