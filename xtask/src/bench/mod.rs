//! `cargo xtask bench`: what premod costs, beside its peers.

mod baseline;
mod document;
mod plot;
mod readme;
mod results;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use self::{
    baseline::Baseline,
    results::{Line, Measured},
};
use crate::{
    build, exec, paths, setup,
    setup::kernels::SERIES,
    vm::{self, Vm, disk::Filesystem, quote, session::Outcome, session::Sink},
};

/// Counts the instructions that operations on a file take while nobody, premod or a peer watches.
///
/// Runs in the VM, whose clock counts instructions: two runs agree, whatever else the machine does. Writes
/// docs/benchmarks.md and bench/baseline.json, unless only some watchers or operations are asked for. With --quick the
/// numbers are compared with bench/baseline.json instead: it fails if premod costs more than it did.
#[derive(Args)]
pub(crate) struct Options {
    /// The kernel's series: 6.1, 6.12, 6.18, or 7; all four by default
    #[arg(long = "kernel", value_name = "K")]
    kernels: Vec<String>,
    /// The file system that the file is on
    #[arg(long = "fs", value_name = "TYPE", default_value = "ext4")]
    filesystem: Filesystem,
    /// Only premod, single operations, and fewer samples
    #[arg(long)]
    quick: bool,
    /// Write what was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only watchers whose name contains this
    #[arg(long, value_name = "SUBSTR")]
    watcher: Option<String>,
    /// Only operations whose name contains this
    #[arg(long, value_name = "SUBSTR")]
    operation: Option<String>,
    /// Measure only these; the others stay as bench/baseline.json has them
    #[arg(long, value_name = "PART", conflicts_with_all = ["quick", "watcher", "operation", "document"])]
    only: Option<Part>,
    /// Measure nothing: write docs/benchmarks.md, and the figures in README.md, again from bench/baseline.json
    #[arg(long)]
    document: bool,
}

/// What is measured of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Counted: whatever else this machine does
    Instructions,
    /// Measured by the clock: on a machine that does nothing else
    Time,
}

/// How long one kernel may take.
const LIMIT: Duration = Duration::from_secs(3600);

impl Options {
    pub(crate) fn run(self) -> Result<ExitCode> {
        if self.document {
            document::write(&Baseline::committed()?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let kernels: Vec<String> = if self.kernels.is_empty() {
            SERIES.map(str::to_owned).to_vec()
        } else {
            self.kernels.clone()
        };
        let mut parts = setup::BPF_PARTS.to_vec();
        parts.extend([setup::Part::Qemu, setup::Part::Guest]);
        parts.extend(kernels.iter().cloned().map(setup::Part::Kernel));
        setup::ensure(&parts)?;
        let programs = programs(self.quick)?;
        let whole = !self.quick && self.watcher.is_none() && self.operation.is_none();
        let (mut all, mut worse) = (Vec::new(), false);
        for series in &kernels {
            let mut measured = match self.only {
                Some(Part::Time) => Baseline::committed()?.of(series)?,
                _ => self.measure(series, &programs)?,
            };
            println!(
                "\n{series} ({}, {})\n",
                measured.release, measured.filesystem
            );
            print!("{}", measured.render());
            if whole {
                if self.only == Some(Part::Instructions) {
                    let before = Baseline::committed()?.of(series)?;
                    (measured.figures, measured.losses) = (before.figures, before.losses);
                } else {
                    self.time(series, &programs, &mut measured)?;
                }
                // Read only now: another kernel may have been measured meanwhile.
                let mut baseline = Baseline::committed()?;
                baseline.take(measured.clone());
                baseline.write()?;
                document::write(&baseline)?;
            } else if self.quick {
                for judged in Baseline::committed()?.judge(&measured) {
                    if let Some(why) = judged.worse {
                        eprintln!("xtask: {} on {series}: {why}", judged.name);
                        worse = true;
                    }
                }
            }
            all.push(measured);
        }
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&all)?;
            fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(if worse {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    /// Boots one kernel and measures on it.
    fn measure(&self, series: &str, programs: &[(PathBuf, String)]) -> Result<Measured> {
        let mut command = "premod-bench".to_owned();
        if self.quick {
            command += " --quick";
        }
        for (option, value) in [("watcher", &self.watcher), ("operation", &self.operation)] {
            if let Some(value) = value {
                command += &format!(" --{option} {}", quote(value));
            }
        }
        let (release, lines) = self.boot(series, programs, command, true)?;
        Measured::of(series, &release, self.filesystem, lines)
    }

    /// Boots it again, with an ordinary clock and two CPUs.
    fn time(
        &self,
        series: &str,
        programs: &[(PathBuf, String)],
        measured: &mut Measured,
    ) -> Result<()> {
        let (_, lines) = self.boot(series, programs, "premod-bench load".to_owned(), false)?;
        measured.figures.clear();
        measured.losses.clear();
        for line in lines {
            match line {
                Line::Figure(figure) => measured.figures.push(figure),
                Line::Loss(loss) => measured.losses.push(loss),
                other => bail!("this has nothing to do with time: {other:?}"),
            }
        }
        Ok(())
    }

    fn boot(
        &self,
        series: &str,
        programs: &[(PathBuf, String)],
        command: String,
        icount: bool,
    ) -> Result<(String, Vec<Line>)> {
        let vm = Vm {
            filesystems: vec![self.filesystem],
            programs: programs.to_vec(),
            icount,
            timeout: Some(LIMIT),
            ..Vm::new(setup::kernel(series)?, command)
        };
        let mut lines = Lines::default();
        eprintln!("bench: kernel {series} ({}) ...", vm.kernel.release);
        let report = vm.run(&format!("bench-{series}"), &mut lines)?;
        if report.outcome != Outcome::Exited(0) {
            bail!(
                "the benchmark on {series} did not end well (log: {})",
                paths::shown(&report.log)
            );
        }
        Ok((vm.kernel.release, lines.parse()?))
    }
}

/// What runs in the guest.
fn programs(quick: bool) -> Result<Vec<(PathBuf, String)>> {
    let mut programs = vm::programs(true, &[("bench", "/usr/bin/premod-bench")])?;
    if !quick {
        programs.push((sources()?, vm::at_home("sources.tar")));
    }
    Ok(programs)
}

/// The regression gate of `cargo xtask test`: the quick benchmark on one kernel, and for each operation what became
/// of its cost.
pub(crate) fn gate(series: &str) -> Result<Vec<(String, Option<String>)>> {
    let options = Options {
        kernels: vec![series.to_owned()],
        filesystem: Filesystem::Ext4,
        quick: true,
        json: None,
        watcher: None,
        operation: None,
        only: None,
        document: false,
    };
    let measured = options.measure(series, &programs(true)?)?;
    let judged = Baseline::committed()?.judge(&measured);
    Ok(judged
        .into_iter()
        .map(|judged| (judged.name, judged.worse))
        .collect())
}

/// A tree of sources that everybody has who builds premod: those of tokio, as Cargo.lock names it.
fn sources() -> Result<PathBuf> {
    let mut command = build::cargo();
    command.args(["metadata", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&exec::stdout(&mut command)?)?;
    let manifest = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == "tokio"))
        .and_then(|package| package["manifest_path"].as_str())
        .context("cargo does not know where tokio's sources are")?;
    let tree = Path::new(manifest)
        .parent()
        .context("it has no directory")?;
    let archive = paths::vm().join("sources.tar");
    // The same archive wherever it is made.
    exec::run(
        Command::new("tar")
            .args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(tree)
            .arg("."),
    )?;
    Ok(archive)
}

/// Takes the benchmark's output.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn parse(&self) -> Result<Vec<Line>> {
        let text = String::from_utf8_lossy(&self.0);
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("it printed {line:?}")))
            .collect()
    }
}

impl Sink for Lines {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend(bytes);
        Ok(())
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        vm::Output.stderr(bytes)
    }
}
