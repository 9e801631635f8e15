//! `cargo xtask soak`: random operations by many processes in the VM, for as long as one likes.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{
    setup,
    vm::{
        self, Output, Report, Vm,
        disk::{Filesystem, TESTED},
    },
};

/// Lets premod trace eight processes that operate at random, and looks for what it misses.
///
/// `changes`: writes, stores through mappings, truncates, clones, renames and syncs on files that all
/// processes share. Each file's content and size are compared between two moments at which it is
/// clean; a change without an event before it is a fault.
///
/// `churn`: files are created, written and deleted as fast as possible, and the memory that premod
/// takes for them is measured.
///
/// `freeze`: premod freezes files that are hammered, and databases at work, and is killed in the middle.
/// No byte of a frozen file may change, no writer may lose anything or stay stopped.
///
/// `kills`: of these parts the sudden deaths of premod and its keeper only.
///
/// `servers`: PostgreSQL and MariaDB (with and without io_uring) at work, whose data directories are copied under a
/// freeze. No client may see an error, each copy has to start and to be whole.
///
/// `pause`: how long a writer stands still while a frozen file is copied.
///
/// The numbers go to stdout. Fails when anything was not announced, or when premod's memory grew.
/// docs/soak.md explains the numbers.
#[derive(Args)]
pub(crate) struct Options {
    /// The kernel's series: 6.1, 6.12, 6.18, or 7; several run one after the other
    #[arg(long = "kernel", value_name = "K", default_value = "6.12")]
    kernels: Vec<String>,
    /// Only on this file system; by default on all three at once
    #[arg(long = "fs", value_name = "TYPE")]
    filesystems: Vec<Filesystem>,
    /// How long on each kernel; the parts `changes` and `churn` share it
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Where the random numbers begin, to repeat a run in kind: the scheduler is not repeated
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Only this part; by default `changes` and `churn`
    #[arg(long)]
    part: Option<Part>,
    /// How many freezes, copies and kills there are in the parts `freeze` and `pause` (default: 50), or copies of each
    /// server in the part `servers` (default: 5)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    times: Option<u32>,
    /// Only this server in the part `servers`: postgres, mariadb, mariadb-uring
    #[arg(
        long,
        value_name = "NAME",
        default_value = "servers",
        hide_default_value = true
    )]
    server: String,
    /// Add to the kernel's command line, `preempt=full` for instance
    #[arg(long, value_name = "ARGS")]
    append: Vec<String>,
    /// Hide some events from the judge: the soak has to fail then
    #[arg(long, hide = true)]
    blind: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// Every change of a file must be announced
    Changes,
    /// What premod keeps for files must go with them
    Churn,
    /// Frozen files must not change, and writers must not notice
    Freeze,
    /// However premod dies, nobody may stay stopped
    Kills,
    /// Database servers must not notice that they are copied
    Servers,
    /// What a freeze costs a writer
    Pause,
}

/// Starting, setting up, and ending take time of their own, on a slow machine above all.
const MARGIN: Duration = Duration::from_secs(300);
/// How long one of the `--times` may take with all that belongs to it.
const EACH: Duration = Duration::from_secs(60);
/// Servers in the part `servers`.
const SERVERS: u32 = 3;

impl Options {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut parts = setup::BPF_PARTS.to_vec();
        parts.extend([setup::Part::Qemu, setup::Part::Guest]);
        parts.extend(self.kernels.iter().cloned().map(setup::Part::Kernel));
        let mut copied = Vec::new();
        let mut memory = vm::MEMORY;
        if let Some(Part::Servers) = self.part {
            parts.push(setup::Part::Servers);
            copied = setup::servers::copied();
            memory = setup::servers::MEMORY;
        }
        setup::ensure(&parts)?;
        let tests = [
            ("soak", "/usr/bin/premod-soak"),
            ("freeze", "/usr/bin/premod-freeze"),
        ];
        let programs = vm::programs(true, &tests)?;
        let seed = self.seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(1, |now| now.as_secs() % 1_000_000)
        });
        let mut worst = ExitCode::SUCCESS;
        for series in &self.kernels {
            let vm = Vm {
                filesystems: self.filesystems(),
                programs: programs.clone(),
                copied: copied.clone(),
                memory,
                append: self.append.clone(),
                timeout: Some(self.duration() + MARGIN),
                ..Vm::new(setup::kernel(series)?, self.command(seed))
            };
            println!("kernel {}, {}", vm.kernel.release, self.terms(seed));
            let report: Report = vm.run(&format!("soak-{series}"), &mut Output)?;
            let code = report.exit_code();
            if code != ExitCode::SUCCESS {
                eprintln!("xtask: the soak on {series} failed ({})", self.terms(seed));
                worst = code;
            }
        }
        Ok(worst)
    }

    fn filesystems(&self) -> Vec<Filesystem> {
        if self.filesystems.is_empty() {
            TESTED.to_vec()
        } else {
            self.filesystems.clone()
        }
    }

    /// Whether premod freezes instead of tracing.
    fn freezes(&self) -> bool {
        matches!(
            self.part,
            Some(Part::Freeze | Part::Kills | Part::Servers | Part::Pause)
        )
    }

    fn times(&self) -> u32 {
        let usual = if let Some(Part::Servers) = self.part {
            5
        } else {
            50
        };
        self.times.unwrap_or(usual)
    }

    fn duration(&self) -> Duration {
        if let Some(Part::Servers) = self.part {
            // Each of them has to be made first, on each filesystem.
            let servers = SERVERS * self.filesystems().len() as u32;
            EACH * servers * (self.times() + 1)
        } else if self.freezes() {
            EACH * self.times()
        } else {
            Duration::from_secs(self.minutes * 60)
        }
    }

    fn terms(&self, seed: u64) -> String {
        if self.freezes() {
            format!("{} times", self.times())
        } else {
            format!("{} minutes, --seed {seed}", self.minutes)
        }
    }

    fn command(&self, seed: u64) -> String {
        let directories = |part: &str| {
            let filesystems = self.filesystems();
            // One alone is mounted elsewhere.
            if let [_] = filesystems[..] {
                return format!("/mnt/test/{part}");
            }
            let directory = |filesystem: &Filesystem| format!("/mnt/{}/{part}", filesystem.name());
            let all: Vec<_> = filesystems.iter().map(directory).collect();
            all.join(" ")
        };
        let freeze =
            |part: &str, times| format!("premod-freeze {part} {times} {}", directories(part));
        match self.part {
            Some(Part::Freeze) => {
                let parts = ["hammer", "databases", "kills"].map(|part| freeze(part, self.times()));
                // Each time is six freezes or more.
                let ends = freeze("ends", (self.times() / 5).max(2));
                return format!("{} && {ends}", parts.join(" && "));
            }
            Some(Part::Kills) => return freeze("kills", self.times()),
            Some(Part::Servers) => return freeze(&self.server, self.times()),
            Some(Part::Pause) => return freeze("pause", self.times()),
            _ => {}
        }
        let mut command = format!("premod-soak --minutes {} --seed {seed}", self.minutes);
        if let Some(part) = self.part {
            command += match part {
                Part::Changes => " --part changes",
                _ => " --part churn",
            };
        }
        if self.blind {
            command += " --blind";
        }
        command
    }
}
