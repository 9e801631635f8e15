//! Runs tests one after the other and prints a verdict for each.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use serde_json::json;

/// How often a test runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Each {
    /// Once on each filesystem under test.
    Filesystem,
    /// Once, on the first of them.
    Boot,
}

/// A test: it panics if the promise in its name is broken.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) each: Each,
    pub(crate) run: fn(&Place),
}

/// Makes the table of a file's tests, each named after its function.
#[macro_export]
macro_rules! tests {
    ($($each:ident $name:ident),+ $(,)?) => {
        pub(crate) const TESTS: &[$crate::harness::Test] = &[$($crate::harness::Test {
            name: stringify!($name),
            each: $crate::harness::Each::$each,
            run: $name,
        }),+];
    };
}

/// Where a test works: a directory of its own on the filesystem under test.
pub(crate) struct Place {
    /// The directory; empty at the beginning.
    pub(crate) directory: PathBuf,
    /// Type of the filesystem.
    pub(crate) filesystem: String,
    /// `bpf` is among the active LSMs.
    pub(crate) lsm: bool,
}

impl Place {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// What a test panics with to be skipped.
struct Skipped(String);

/// Ends the test with the verdict `skip`.
pub(crate) fn skip(reason: &str) -> ! {
    std::panic::resume_unwind(Box::new(Skipped(reason.to_owned())))
}

/// Runs the tests whose name contains `filter`.
pub(crate) fn run(tests: &[Test], filter: &str) -> ExitCode {
    let filesystems = filesystems();
    let mut done = 0;
    let mut failed = false;
    for test in tests.iter().filter(|test| test.name.contains(filter)) {
        let runs = if test.each == Each::Boot { 1 } else { filesystems.len() };
        for (mount, filesystem) in filesystems.iter().take(runs) {
            let place = Place {
                directory: mount.join(test.name),
                filesystem: filesystem.clone(),
                lsm: std::env::var_os("PREMOD_LSM").is_none_or(|lsm| lsm != "off"),
            };
            failed |= !run_one(*test, &place);
            done += 1;
        }
    }
    println!("{}", json!({"done": done}));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run_one(test: Test, place: &Place) -> bool {
    eprintln!("--- {} on {}", test.name, place.filesystem);
    let began = Instant::now();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        std::fs::create_dir_all(&place.directory).expect("a directory for the test");
        (test.run)(place);
    }));
    let (verdict, reason) = match ended {
        Ok(()) => ("pass", None),
        Err(panic) => match panic.downcast::<Skipped>() {
            Ok(skipped) => ("skip", Some(skipped.0)),
            Err(panic) => ("fail", Some(message(&*panic))),
        },
    };
    println!(
        "{}",
        json!({
            "test": test.name,
            "fs": if test.each == Each::Boot { "-" } else { &place.filesystem },
            "verdict": verdict,
            "seconds": (began.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            "reason": reason,
        })
    );
    verdict != "fail"
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "panicked".to_owned())
}

/// The filesystems mounted below /mnt, by the names of their mount points.
fn filesystems() -> Vec<(PathBuf, String)> {
    let all = ["ext4", "xfs", "btrfs"]
        .map(|name| (PathBuf::from("/mnt").join(name), name.to_owned()));
    let mounted: Vec<_> = all.into_iter().filter(|(mount, _)| mount.is_dir()).collect();
    assert!(!mounted.is_empty(), "nothing is mounted at /mnt/ext4, /mnt/xfs or /mnt/btrfs");
    mounted
}
