//! `cargo xtask test`: every check and every test, on this machine and on the real kernels.

mod boots;
mod coverage;
mod guest;
mod host;
mod parts;
mod queue;
mod table;
mod verdict;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;

use self::{
    boots::KINDS,
    guest::Boot,
    host::Which,
    parts::Parts,
    queue::{COSTS, Job, MEASURED, Ran},
    table::Row,
    verdict::{Skips, Verdict},
};
use crate::{setup, setup::kernels::SERIES, vm};

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
    #[arg(long, value_name = "S", default_value_t = 2700)]
    boot_timeout: u64,
    /// How many kernels run at a time beside the checks; without these one more
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
}

/// The part that builds what runs in the VM.
const BUILD: &str = "build for the VM";

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
            return Ok(host::run(Which::All(filter), parts));
        }
        let (checking, checks) = mpsc::channel();
        if self.vm_only {
            drop(checking);
            return self.run_in_vm(kernels, checks, parts);
        }
        // Guests leave a part of two CPUs idle, and so does the end of what is built for them: the checks take that.
        let which = match filter {
            Some(_) => Which::All(filter),
            None => Which::WithoutDeadlines,
        };
        let mut rows = thread::scope(|scope| {
            let here = scope.spawn(|| {
                let _checking = checking;
                be_nice();
                host::run(which, parts)
            });
            let there = self.run_in_vm(kernels, checks, parts);
            let mut rows = here
                .join()
                .map_err(|_| anyhow::anyhow!("what runs the checks on this machine panicked"))?;
            rows.extend(there?);
            anyhow::Ok(rows)
        })?;
        if filter.is_none() {
            rows.push(host::run_with_deadlines(parts));
        }
        Ok(rows)
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
        checks: Receiver<()>,
        parts: &Parts,
    ) -> Result<Vec<Row>> {
        let programs = match build_for_vm(parts) {
            Ok(programs) => programs,
            Err(error) => return Ok(vec![Row::failure(BUILD, format!("{error:#}"))]),
        };
        let skips = Skips::load()?;
        let mut jobs: Vec<Job<'_>> = KINDS
            .into_iter()
            .filter(|kind| kernels.iter().any(|series| series == kind.series))
            .map(|kind| {
                Job::Boot(Boot {
                    kind,
                    all: self.leaves_nothing_out(),
                    filter: self.filter.as_deref(),
                    limit: Duration::from_secs(self.boot_timeout),
                    programs: &programs,
                    skips: &skips,
                })
            })
            .collect();
        let filter = self.filter.as_deref();
        if filter.is_none_or(|filter| COSTS.contains(filter))
            && kernels.iter().any(|series| series == MEASURED)
        {
            jobs.push(Job::Costs);
        }
        let Ran { mut rows, coverage } = queue::run(&jobs, self.jobs.max(1), checks, parts)?;
        if self.kernels.is_empty() {
            rows.extend(boots::run_nowhere(&rows));
        }
        let every_way = matches!(filter, None | Some(coverage::FILTER));
        let whole = self.kernels.is_empty() && every_way;
        rows.extend(coverage::conclude(&coverage, whole)?);
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

/// Leaves the CPUs to others as far as it can: this thread, and what it starts. Tests have deadlines here, too, so that
/// it is not the least that there is.
fn be_nice() {
    if let Err(error) = rustix::process::setpriority_process(None, 10) {
        eprintln!("test: the checks run at full priority beside the VM: {error}");
    }
}
