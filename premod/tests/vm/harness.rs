//! Runs tests and prints a verdict for each.
//!
//! Starting premod takes seconds under emulation. Tests that run on every filesystem therefore share one
//! premod: first each *prepares* what has to be there before premod starts (open files, mappings), then
//! premod starts, then each *checks*.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use premod::kernel::environment::{Environment, Preemption};
use serde_json::json;

use crate::{freeze, limit, tools, trace::Trace};

/// A test on every filesystem: prepares, and returns what checks.
pub(crate) type Prepare = fn(&Place) -> Check;

/// Panics if the promise in the test's name is broken.
pub(crate) type Check = Box<dyn FnOnce(&mut Trace)>;

/// A test.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) run: Run,
    pub(crate) boots: Boots,
}

/// On which boots a test runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boots {
    /// The core, on every boot: what must be known of a kernel before anything else.
    Every,
    /// What depends on the kernel: on the oldest and on the newest, and on the others with `cargo xtask
    /// test --all`.
    OldestAndNewest,
    /// What does not depend on the kernel, such as how the command line deals with events: on one.
    One,
    /// What depends on how the kernel preempts: on every boot, and on one that preempts tasks which run in the kernel.
    Preempted,
}

impl Boots {
    /// How `cargo xtask test` calls it.
    fn word(self) -> &'static str {
        match self {
            Self::Every => "every",
            Self::OldestAndNewest => "oldest-and-newest",
            Self::One => "one",
            Self::Preempted => "preempted",
        }
    }

    /// Whether this boot is among them. `PREMOD_BOOTS` says what it is among; without it, it is among all.
    fn include_this(self) -> bool {
        std::env::var("PREMOD_BOOTS").map_or(true, |among| {
            among.split(',').any(|boots| boots == self.word())
        })
    }
}

/// How a test runs.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// On each filesystem, all with the same premod.
    Shared(Prepare),
    /// On each filesystem: this way to change a file, against a freeze that all of them share.
    Frozen(&'static str),
    /// Once, on the first filesystem, with a premod of its own.
    Alone(fn(&Place)),
}

/// Makes the table of a file's tests, each named after its function. `on` says on which [`Boots`] a test
/// runs, or all of the table: on the oldest and the newest kernel where nothing is said.
///
/// ```ignore
/// tests! {
///     on Every;
///     Shared a_write_is_announced,
///     Alone a_wrong_option_is_named on One,
/// }
/// ```
#[macro_export]
macro_rules! tests {
    (@boots $boots:ident $($all:ident)?) => { $crate::harness::Boots::$boots };
    (on $all:ident; $($run:ident $name:ident $(on $boots:ident)?),+ $(,)?) => {
        pub(crate) const TESTS: &[$crate::harness::Test] = &[$($crate::harness::Test {
            name: stringify!($name),
            run: $crate::harness::Run::$run($name),
            boots: $crate::tests!(@boots $($boots)? $all),
        }),+];
    };
    ($($tests:tt)+) => { $crate::tests! { on OldestAndNewest; $($tests)+ } };
}

/// Where a test works.
#[derive(Clone)]
pub(crate) struct Place {
    /// A directory of the test's own below a traced directory; empty at the beginning.
    pub(crate) directory: PathBuf,
    /// A directory of its own on the same filesystem that is not traced by the shared premod.
    pub(crate) outside: PathBuf,
    /// A file in an untraced directory that is a PATH of the shared premod.
    pub(crate) given: PathBuf,
    /// Type of the filesystem.
    pub(crate) filesystem: String,
    /// `bpf` is among the active LSMs.
    pub(crate) lsm: bool,
}

impl Place {
    fn new(mount: &Mount, test: &str) -> Self {
        // A name that mount(8) takes among its options.
        let name = test.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let place = Self {
            directory: mount.traced().join(&name),
            outside: mount.point.join("outside").join(&name),
            given: mount.given(),
            filesystem: mount.filesystem.clone(),
            lsm: has_lsm(),
        };
        for directory in [&place.directory, &place.outside] {
            fs::create_dir_all(directory).expect("a directory for the test");
        }
        place
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Whether `bpf` is among the active LSMs in this boot.
pub(crate) fn has_lsm() -> bool {
    std::env::var_os("PREMOD_LSM").is_none_or(|lsm| lsm != "off")
}

/// Whether the kernel takes the CPU from tasks that run in it.
pub(crate) fn preemption() -> Preemption {
    let preemption = Environment::gather().preemption;
    assert_ne!(preemption, Preemption::Unknown, "the guest's kernel tells");
    preemption
}

/// Whether the kernel is of this series or a later one.
pub(crate) fn kernel_at_least(major: u32, minor: u32) -> bool {
    let kernel = rustix::system::uname();
    let release = kernel.release().to_str().expect("ASCII");
    let mut numbers = release.split('.').map(|number| number.parse().ok());
    (numbers.next().flatten(), numbers.next().flatten()) >= (Some(major), Some(minor))
}

/// A filesystem under test.
struct Mount {
    point: PathBuf,
    filesystem: String,
}

impl Mount {
    fn traced(&self) -> PathBuf {
        self.point.join("traced")
    }

    fn given(&self) -> PathBuf {
        self.point.join("given")
    }
}

/// Runs this boot's tests whose name contains `filter`, or one of its parts between `|`, and names those that it
/// leaves out.
pub(crate) fn run(tests: &[Test], filter: &str) -> ExitCode {
    let mounts = mounts();
    // The periodic flusher ends clean periods whenever it likes; tests end them themselves. Not 0: that
    // would wake the flusher at each first dirtying instead of never (wb_wakeup_delayed).
    for interval in ["dirty_writeback_centisecs", "dirty_expire_centisecs"] {
        fs::write(format!("/proc/sys/vm/{interval}"), "360000").expect("the sysctl");
    }
    let (wanted, left_out): (Vec<&Test>, Vec<&Test>) = tests
        .iter()
        .filter(|test| filter.split('|').any(|part| test.name.contains(part)))
        .partition(|test| test.boots.include_this());
    let mut report = Report::default();
    for test in left_out {
        println!(
            "{}",
            json!({"test": test.name, "verdict": "left out", "reason": test.boots.word()})
        );
        report.done += 1;
    }
    let (mut shared, mut frozen) = (Vec::new(), Vec::new());
    for test in &wanted {
        match test.run {
            Run::Shared(prepare) => {
                shared.extend(mounts.iter().map(|mount| (test.name, mount, prepare)));
            }
            Run::Frozen(way) => {
                frozen.extend(mounts.iter().map(|mount| (test.name, mount, way)));
            }
            Run::Alone(_) => {}
        }
    }
    if !shared.is_empty() {
        run_shared(&shared, &mounts, &mut report);
    }
    if !frozen.is_empty() {
        run_frozen(&frozen, &mut report);
    }
    for test in wanted {
        if let Run::Alone(run) = test.run {
            let place = Place::new(&mounts[0], test.name);
            report.verdict(test.name, "-", Instant::now(), || run(&place));
        }
    }
    println!("{}", json!({"done": report.done}));
    if report.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn run_shared(tests: &[(&'static str, &Mount, Prepare)], mounts: &[Mount], report: &mut Report) {
    let mut paths = Vec::new();
    for mount in mounts {
        fs::create_dir_all(mount.traced()).expect("a traced directory");
        fs::write(mount.given(), "x").expect("a traced file");
        paths.extend([mount.traced(), mount.given()]);
    }
    let prepared: Vec<_> = tests
        .iter()
        .map(|&(name, mount, prepare)| {
            let place = Place::new(mount, name);
            (
                name,
                mount,
                catch_unwind(AssertUnwindSafe(|| prepare(&place))),
            )
        })
        .collect();
    rustix::fs::sync();
    let paths: Vec<&str> = paths
        .iter()
        .map(|path| path.to_str().expect("a plain path"))
        .collect();
    let mut started = None;
    report.verdict("premod_starts", "-", Instant::now(), || {
        started = Some(Trace::start_with(&mounts[0].traced(), &paths));
    });
    let Some(mut trace) = started else {
        return;
    };
    for (name, mount, prepared) in prepared {
        report.verdict(name, &mount.filesystem, Instant::now(), || {
            let check = prepared.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // What an earlier test has left behind is not this one's.
            let _ = trace.events();
            check(&mut trace);
        });
    }
    report.verdict(
        "nothing_was_lost_or_late_in_all_this",
        "-",
        Instant::now(),
        || {
            trace.end_cleanly();
        },
    );
}

/// Goes all ways against frozen files, first held, then denied.
fn run_frozen(tests: &[(&'static str, &Mount, &'static str)], report: &mut Report) {
    let places: Vec<_> = tests
        .iter()
        .map(|&(name, mount, way)| (way, Place::new(mount, name)))
        .collect();
    let began = Instant::now();
    let mut problems = None;
    report.verdict("files_freeze_and_thaw_for_all_ways", "-", began, || {
        // Of several that load it at the same time all but one go on before it is there.
        tools::run("modprobe", &["overlay"]);
        problems = Some(freeze::ways::problems(&places));
    });
    let problems = problems.unwrap_or_default();
    for ((name, mount, _), problems) in tests.iter().zip(problems) {
        report.verdict(name, &mount.filesystem, Instant::now(), || {
            assert!(problems.is_empty(), "{}", problems.join("; "));
        });
    }
}

/// What has been said so far.
#[derive(Default)]
struct Report {
    done: u32,
    failed: bool,
}

impl Report {
    /// Runs one test and prints its verdict.
    fn verdict(&mut self, test: &str, filesystem: &str, began: Instant, run: impl FnOnce()) {
        eprintln!("--- {test} on {filesystem}");
        let print = |reason: Option<&str>| {
            println!(
                "{}",
                json!({
                    "test": test,
                    "fs": filesystem,
                    "verdict": if reason.is_none() { "pass" } else { "fail" },
                    "seconds": (began.elapsed().as_secs_f64() * 10.0).round() / 10.0,
                    "reason": reason,
                })
            );
        };
        let mut outcome = Ok(());
        let in_time = limit::run_within(
            || outcome = catch_unwind(AssertUnwindSafe(run)),
            || {
                print(Some(&limit::reason()));
                std::process::exit(1);
            },
        );
        let panicked = outcome.err().map(|panic| message(&*panic));
        let reason = match (in_time, panicked) {
            (true, panicked) => panicked,
            (false, None) => Some(limit::reason()),
            (false, Some(then)) => Some(format!("{}; then: {then}", limit::reason())),
        };
        print(reason.as_deref());
        self.done += 1;
        self.failed |= reason.is_some();
    }
}

pub(crate) fn message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "panicked".to_owned())
}

/// The filesystems mounted below /mnt, by the names of their mount points.
fn mounts() -> Vec<Mount> {
    let all = ["ext4", "xfs", "btrfs"].map(|name| Mount {
        point: PathBuf::from("/mnt").join(name),
        filesystem: name.to_owned(),
    });
    let mounted: Vec<_> = all
        .into_iter()
        .filter(|mount| mount.point.is_dir())
        .collect();
    assert!(
        !mounted.is_empty(),
        "nothing is mounted at /mnt/ext4, /mnt/xfs or /mnt/btrfs"
    );
    mounted
}
