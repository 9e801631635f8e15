//! One run of a machine: everything between the wish and QEMU.

use std::{
    env, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    MEMORY, Output, SMP,
    accel::Accel,
    console::Console,
    disk::Filesystem,
    initramfs::{self, Copied, Instructions},
    modules::{BOOT, Modules},
    qemu,
    session::{self, Outcome, Sink},
    terminal,
};
use crate::{paths, setup, setup::kernels::Kernel};

/// One run of a machine, as the other tasks ask for it.
pub(crate) struct Vm {
    pub(crate) kernel: Kernel,
    pub(crate) filesystems: Vec<Filesystem>,
    pub(crate) programs: Vec<(PathBuf, String)>,
    pub(crate) copied: Vec<Copied>,
    pub(crate) smp: u32,
    pub(crate) memory: u32,
    pub(crate) icount: bool,
    pub(crate) append: Vec<String>,
    pub(crate) bpf_lsm: bool,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) terminal: bool,
    pub(crate) command: String,
}

/// What a kernel under translation need not do: go through QEMU for the time (HPET), as the counters of QEMU's CPUs are one and
/// the same; clear the pages that it hands out; and panic when QEMU's timer comes late, because the host is busy ("IO-APIC +
/// timer doesn't work").
const FOR_TRANSLATION: &str = " tsc=reliable init_on_alloc=0 no_timer_check";

/// How a run went.
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    /// The kernel's log.
    pub(crate) log: PathBuf,
    /// From QEMU's start to the command's.
    pub(crate) boot: Option<Duration>,
}

impl Vm {
    /// A machine that runs `command`, with everything else as it usually is.
    pub(crate) fn new(kernel: Kernel, command: String) -> Self {
        Self {
            kernel,
            filesystems: Vec::new(),
            programs: Vec::new(),
            copied: Vec::new(),
            smp: SMP,
            memory: MEMORY,
            icount: false,
            append: Vec::new(),
            bpf_lsm: true,
            environment: Vec::new(),
            timeout: None,
            terminal: false,
            command,
        }
    }

    /// Boots, runs the command to its end and shuts down. `label` names the log.
    pub(crate) fn run(&self, label: &str, sink: &mut dyn Sink) -> Result<Report> {
        let accel = if self.icount {
            Accel::Tcg
        } else {
            Accel::choose(|accel| self.boots(accel))?
        };
        self.run_with(accel, label, sink)
    }

    /// Whether this kernel boots to a command under `accel`.
    fn boots(&self, accel: Accel) -> bool {
        let probe = Self {
            programs: self.programs.clone(),
            timeout: Some(Duration::from_secs(20)),
            ..Self::new(self.kernel.clone(), "true".to_owned())
        };
        let report = probe.run_quietly(accel, "kvm-probe");
        report.is_ok_and(|report| report.outcome == Outcome::Exited(0))
    }

    /// Runs without saying how it went.
    fn run_quietly(&self, accel: Accel, label: &str) -> Result<Report> {
        let directory = RunDirectory::create()?;
        let (report, _) = self.run_in(&directory, accel, label, &mut Output)?;
        Ok(report)
    }

    fn run_with(&self, accel: Accel, label: &str, sink: &mut dyn Sink) -> Result<Report> {
        let directory = RunDirectory::create()?;
        let (report, console) = self.run_in(&directory, accel, label, sink)?;
        let what = match &report.outcome {
            Outcome::Exited(_) | Outcome::Unread => return Ok(report),
            Outcome::Complaint(line) => format!("the kernel complained: {line}"),
            Outcome::Timeout(when) => format!("the time was up {when}"),
            Outcome::Failed(reason) => format!("the machine failed: {reason}"),
        };
        let mut stderr = io::stderr().lock();
        let messages = fs::read_to_string(directory.0.join("qemu")).unwrap_or_default();
        for line in messages
            .lines()
            .map(str::to_owned)
            .chain(console.telling_lines().to_vec())
        {
            writeln!(stderr, "  | {line}")?;
        }
        writeln!(stderr, "vm: {what} (log: {})", paths::shown(&report.log))?;
        Ok(report)
    }

    fn run_in(
        &self,
        directory: &RunDirectory,
        accel: Accel,
        label: &str,
        sink: &mut dyn Sink,
    ) -> Result<(Report, Console)> {
        let initramfs = directory.0.join("initramfs");
        // Two runs may both find a cache empty.
        let lock = setup::lock("caches")?;
        let modules = Modules::of(&self.kernel)?;
        let disks = self
            .distinct_filesystems()
            .into_iter()
            .map(|filesystem| Ok((filesystem.name(), filesystem.template()?)))
            .collect::<Result<Vec<_>>>()?;
        drop(lock);
        let mut roots = BOOT.to_vec();
        let filesystems: Vec<&'static str> = disks.iter().map(|(name, _)| *name).collect();
        roots.extend(&filesystems);
        let mut copied: Vec<Copied> = self
            .programs
            .iter()
            .map(|(host, guest)| Copied {
                host: host.clone(),
                guest: guest.clone(),
            })
            .collect();
        copied.extend(self.copied.iter().cloned());
        let instructions = Instructions {
            command: &self.command,
            environment: &self.environment(),
            filesystems,
            modules: modules.to_load(&roots)?,
            terminal: self.terminal,
        };
        initramfs::write(&initramfs, &directory.0, &modules, &instructions, &copied)?;
        let mut console = Console::create(label)?;
        let mut qemu = qemu::Machine {
            accel,
            icount: self.icount,
            smp: self.smp,
            memory: self.memory,
            kernel: &self.kernel.image,
            initramfs: &initramfs,
            command_line: &self.command_line(accel)?,
            disks: &disks,
            directory: &directory.0,
            messages: &directory.0.join("qemu"),
        }
        .start()?;
        let raw = if self.terminal {
            Some(terminal::Raw::connect(&qemu.port)?)
        } else {
            None
        };
        let (outcome, boot) = session::follow(&mut qemu, &mut console, sink, self.timeout)?;
        drop(raw);
        let report = Report {
            outcome,
            log: console.path.clone(),
            boot,
        };
        Ok((report, console))
    }

    fn distinct_filesystems(&self) -> Vec<Filesystem> {
        let mut distinct = Vec::new();
        for filesystem in &self.filesystems {
            if !distinct.contains(filesystem) {
                distinct.push(*filesystem);
            }
        }
        distinct
    }

    fn environment(&self) -> Vec<(String, String)> {
        let terminal = env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let standard = [
            ("PATH", path),
            ("HOME", premod_guest::HOME),
            ("USER", "root"),
            ("TERM", &terminal),
        ];
        let standard = standard.map(|(name, value)| (name.to_owned(), value.to_owned()));
        standard
            .into_iter()
            .chain(self.environment.iter().cloned())
            .collect()
    }

    fn command_line(&self, accel: Accel) -> Result<String> {
        // Level 7 keeps everything but debug messages, WARNINGs above all, in the log. A kernel
        // in trouble ends at once instead of waiting for the limit.
        let mut line =
            "console=ttyS0 loglevel=7 panic=-1 oops=panic mitigations=off rdinit=/init".to_owned();
        // Where instructions are counted, the kernel does all that it usually does.
        if accel.translates() && !self.icount {
            line += FOR_TRANSLATION;
        }
        if !self.bpf_lsm {
            line += &format!(" lsm={}", self.modules_without_bpf()?);
        }
        for append in &self.append {
            line += &format!(" {append}");
        }
        Ok(line)
    }

    /// The kernel's own list of security modules without bpf.
    fn modules_without_bpf(&self) -> Result<String> {
        let config = self.kernel.config.as_ref();
        let config =
            config.context("--no-bpf-lsm needs the kernel's configuration, which is not known")?;
        let text = fs::read_to_string(config)
            .with_context(|| format!("cannot read {}", config.display()))?;
        without_bpf(&text).with_context(|| format!("{} has no CONFIG_LSM", config.display()))
    }
}

/// CONFIG_LSM of a kernel configuration without bpf.
fn without_bpf(config: &str) -> Option<String> {
    let list = config
        .lines()
        .find_map(|line| line.strip_prefix("CONFIG_LSM="))?
        .trim_matches('"');
    Some(
        list.split(',')
            .filter(|name| *name != "bpf")
            .collect::<Vec<_>>()
            .join(","),
    )
}

/// A directory for one run, removed at its end.
struct RunDirectory(PathBuf);

impl RunDirectory {
    fn create() -> Result<Self> {
        let runs = paths::vm().join("run");
        fs::create_dir_all(&runs).with_context(|| format!("mkdir {}", runs.display()))?;
        remove_leftovers(&runs);
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = runs.join(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("mkdir {}", directory.display()))?;
        Ok(Self(directory))
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // Left to the next run when it fails.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Removes the directories of runs that were killed; each is named after its
/// process.
fn remove_leftovers(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_is_taken_out_of_the_stock_list() {
        let config = "CONFIG_X=y\nCONFIG_LSM=\"landlock,yama,bpf,ipe\"\n";
        assert_eq!(without_bpf(config).unwrap(), "landlock,yama,ipe");
        assert_eq!(without_bpf("CONFIG_LSM_MMAP_MIN_ADDR=65536"), None);
    }
}
