//! `cargo xtask test`: every check and every test, on this machine and on the real kernels.

mod coverage;
mod guest;
mod host;
mod table;
mod verdict;

use std::{
    io::{self, Write as _},
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
    guest::{Boot, BootCoverage},
    table::Row,
    verdict::{Skips, Verdict},
};
use crate::{bench, setup, setup::kernels::SERIES, vm};

/// Sets up what is missing and runs all checks and tests.
///
/// Ends with a table and the line `N passed, N failed, N skipped`; fails when anything failed, or
/// was skipped in the VM without standing in premod/tests/vm/expected-skips.json.
#[derive(Args)]
pub(crate) struct Options {
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

/// The kernel that is also booted without bpf among its security modules.
const WITHOUT_BPF: &str = "6.12";

/// The kernel on which instructions are counted.
const MEASURED: &str = "6.12";

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
        self.set_up(&kernels)?;
        let filter = self.filter.as_deref();
        let mut rows = Vec::new();
        if !self.vm_only {
            rows.extend(host::run(filter));
        }
        if !self.host_only {
            rows.extend(self.run_in_vm(&kernels)?);
        }
        let mut stdout = io::stdout().lock();
        let text = table::render(&rows);
        let seconds = start.elapsed().as_secs();
        write!(
            stdout,
            "\n{text}\n{seconds} s in all\n{}\n",
            table::summary(&rows)
        )?;
        Ok(if rows.iter().any(Row::failed) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
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

    /// One boot for each kernel with all its file systems, and one without bpf as an LSM.
    fn run_in_vm(&self, kernels: &[String]) -> Result<Vec<Row>> {
        let tests = [
            ("vm", "/usr/bin/premod-vm-test"),
            ("freeze", "/usr/bin/premod-freeze"),
        ];
        let programs = match vm::programs(true, &tests) {
            Ok(programs) => programs,
            Err(error) => return Ok(vec![Row::failure("build for the VM", format!("{error:#}"))]),
        };
        let skips = Skips::load()?;
        let mut boots: Vec<(&str, bool)> = kernels
            .iter()
            .map(|series| (series.as_str(), true))
            .collect();
        if kernels.iter().any(|series| series == WITHOUT_BPF) {
            boots.push((WITHOUT_BPF, false));
        }
        let boots: Vec<Boot<'_>> = boots
            .into_iter()
            .map(|(series, bpf_lsm)| Boot {
                series,
                bpf_lsm,
                filter: self.filter.as_deref(),
                limit: Duration::from_secs(self.boot_timeout),
                programs: &programs,
                skips: &skips,
            })
            .collect();
        let (mut rows, seen) = run_all(&boots, self.jobs.max(1))?;
        let every_way = matches!(self.filter.as_deref(), None | Some(coverage::FILTER));
        let whole = self.kernels.is_empty() && every_way;
        rows.extend(coverage::conclude(&seen, whole)?);
        let costs = self
            .filter
            .as_deref()
            .is_none_or(|filter| COSTS.contains(filter));
        if costs && kernels.iter().any(|series| series == MEASURED) {
            rows.extend(costs_rows());
        }
        if let Some(filter) = &self.filter
            && rows.is_empty()
        {
            let reason = format!("no test's name contains {filter:?}");
            rows.push(Row::failure("--filter", reason));
        }
        Ok(rows)
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
fn run_all(boots: &[Boot<'_>], jobs: usize) -> Result<(Vec<Row>, Vec<BootCoverage>)> {
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
                    let rows = boot.run();
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
