//! `cargo xtask test`: every check and every test, on this machine and on the real kernels.

mod boots;
mod coverage;
mod guest;
mod host;
mod parts;
mod table;
mod verdict;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;

use self::{
    boots::KINDS,
    guest::{Boot, BootCoverage},
    parts::Parts,
    table::Row,
    verdict::{Skips, Verdict},
};
use crate::{bench, setup, setup::kernels::SERIES, vm};

/// Sets up what is missing and runs all checks and tests.
///
/// Of the tests in the VM, those that depend on the kernel run on the oldest and the newest; on the kernels between
/// them runs the core, which is what must be known of a kernel before anything else. The end says what was left out.
/// With --all, --kernel or --filter, nothing is.
///
/// Ends with a table and the line `N passed, N failed, N skipped`; fails when anything failed, or
/// was skipped in the VM without standing in premod/tests/vm/expected-skips.json.
#[derive(Args)]
pub(crate) struct Options {
    /// Run all VM tests on all kernels
    #[arg(long)]
    all: bool,
    /// Run the VM tests on this kernel only: 6.1, 6.12, 6.18 or 7
    #[arg(long = "kernel", value_name = "K")]
    kernels: Vec<String>,
    /// Run only tests whose name contains this, and no checks
    #[arg(long, value_name = "SUBSTR")]
    filter: Option<String>,
    /// Leave the VM tests out
    #[arg(long, conflicts_with = "vm_only")]
    host_only: bool,
    /// Run the VM tests only
    #[arg(long)]
    vm_only: bool,
    /// How long one boot with all its tests may take
    #[arg(long, value_name = "S", default_value_t = 1800)]
    boot_timeout: u64,
    /// How many kernels run at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
}

/// The kernel on which instructions are counted.
const MEASURED: &str = "6.12";

/// The part that builds what runs in the VM.
const BUILD: &str = "build for the VM";

/// How the rows of what premod costs begin.
const COSTS: &str = "costs";

impl Options {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        let kernels: Vec<String> = if self.kernels.is_empty() {
            SERIES.map(str::to_owned).to_vec()
        } else {
            self.kernels.clone()
        };
        let parts = Parts::default();
        parts.time("setup", || self.set_up(&kernels))?;
        let rows = self.run_parts(&kernels, &parts)?;
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "\n{}", table::render(&rows))?;
        if let Some(told) = boots::left_out(&rows) {
            writeln!(stdout, "{told}")?;
        }
        writeln!(stdout, "{parts}; {} s in all", start.elapsed().as_secs())?;
        writeln!(stdout, "{}", table::summary(&rows))?;
        Ok(if rows.iter().any(Row::failed) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    /// What runs on this machine, and what runs in the VM.
    fn run_parts(&self, kernels: &[String], parts: &Parts) -> Result<Vec<Row>> {
        let filter = self.filter.as_deref();
        if self.host_only {
            return Ok(host::run(filter, parts));
        }
        let programs = build_for_vm(parts);
        if self.vm_only {
            return self.run_in_vm(kernels, programs, parts);
        }
        // A guest leaves much of two CPUs idle: the checks take that, and no more.
        thread::scope(|scope| {
            let here = scope.spawn(|| {
                be_nice();
                host::run(filter, parts)
            });
            let there = self.run_in_vm(kernels, programs, parts);
            let mut rows = here
                .join()
                .map_err(|_| anyhow::anyhow!("what runs the checks on this machine panicked"))?;
            rows.extend(there?);
            Ok(rows)
        })
    }

    fn set_up(&self, kernels: &[String]) -> Result<()> {
        let mut parts = setup::BPF_PARTS.to_vec();
        if !self.host_only {
            parts.extend([setup::Part::Qemu, setup::Part::Guest]);
            parts.extend(kernels.iter().cloned().map(setup::Part::Kernel));
        }
        setup::ensure(&parts)
    }

    /// Every kind of boot of these kernels, with all file systems.
    fn run_in_vm(
        &self,
        kernels: &[String],
        programs: Result<Vec<(PathBuf, String)>>,
        parts: &Parts,
    ) -> Result<Vec<Row>> {
        let programs = match programs {
            Ok(programs) => programs,
            Err(error) => return Ok(vec![Row::failure(BUILD, format!("{error:#}"))]),
        };
        let skips = Skips::load()?;
        let boots: Vec<Boot<'_>> = KINDS
            .into_iter()
            .filter(|kind| kernels.iter().any(|series| series == kind.series))
            .map(|kind| Boot {
                kind,
                all: self.leaves_nothing_out(),
                filter: self.filter.as_deref(),
                limit: Duration::from_secs(self.boot_timeout),
                programs: &programs,
                skips: &skips,
            })
            .collect();
        let (mut rows, seen) = run_all(&boots, self.jobs.max(1), parts)?;
        if self.kernels.is_empty() {
            rows.extend(boots::run_nowhere(&rows));
        }
        let every_way = matches!(self.filter.as_deref(), None | Some(coverage::FILTER));
        let whole = self.kernels.is_empty() && every_way;
        rows.extend(coverage::conclude(&seen, whole)?);
        let costs = self
            .filter
            .as_deref()
            .is_none_or(|filter| COSTS.contains(filter));
        if costs && kernels.iter().any(|series| series == MEASURED) {
            rows.extend(parts.time(COSTS, costs_rows));
        }
        if let Some(filter) = &self.filter
            && rows.iter().all(|row| row.verdict == Verdict::LeftOut)
        {
            let reason = format!("no test here has a name that contains {filter:?}");
            rows.push(Row::failure("--filter", reason));
        }
        Ok(rows)
    }

    /// Whoever names kernels or tests wants all of them.
    fn leaves_nothing_out(&self) -> bool {
        self.all || !self.kernels.is_empty() || self.filter.is_some()
    }
}

/// Builds what runs in the VM: the files and their places there.
fn build_for_vm(parts: &Parts) -> Result<Vec<(PathBuf, String)>> {
    let tests = [
        ("vm", "/usr/bin/premod-vm-test"),
        ("freeze", "/usr/bin/premod-freeze"),
    ];
    parts.time(BUILD, || vm::programs(true, &tests))
}

/// Leaves the CPUs to others: this thread, and what it starts, run only when nobody else wants them.
fn be_nice() {
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        eprintln!("test: the checks run at full priority beside the VM: {error}");
    }
}

/// What premod costs, a row for each operation.
fn costs_rows() -> Vec<Row> {
    let start = Instant::now();
    eprintln!("test: kernel {MEASURED}: counting instructions ...");
    let judged = match bench::gate(MEASURED) {
        Ok(judged) => judged,
        Err(error) => return vec![Row::failure(COSTS, format!("{error:#}"))],
    };
    let seconds = start.elapsed().as_secs_f32() / judged.len().max(1) as f32;
    let row = |(name, worse): (String, Option<String>)| Row {
        name,
        place: Some(MEASURED.to_owned()),
        fs: None,
        verdict: if worse.is_some() {
            Verdict::Fail
        } else {
            Verdict::Pass
        },
        seconds,
        reason: worse,
        counts: None,
    };
    judged.into_iter().map(row).collect()
}

/// Runs the boots, `jobs` at a time, and returns their rows in the boots' order.
fn run_all(
    boots: &[Boot<'_>],
    jobs: usize,
    parts: &Parts,
) -> Result<(Vec<Row>, Vec<BootCoverage>)> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.min(boots.len()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(boot) = boots.get(number) else {
                        return;
                    };
                    let rows = parts.time(&boot.kind.place(), || boot.run());
                    if let Ok(mut results) = results.lock() {
                        results.push((number, rows));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(number, _)| *number);
    let (mut rows, mut coverage) = (Vec::new(), Vec::new());
    for (_, result) in results {
        let (more, seen) = result?;
        rows.extend(more);
        coverage.push(seen);
    }
    Ok((rows, coverage))
}
