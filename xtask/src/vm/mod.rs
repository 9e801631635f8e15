//! `cargo xtask vm`: boots a kernel and runs one command in it.

pub(crate) mod accel;
pub(crate) mod archive;
mod console;
pub(crate) mod disk;
mod initramfs;
mod modules;
mod qemu;
pub(crate) mod session;
pub(crate) mod terminal;

use std::{
    env, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;

use self::{
    accel::Accel,
    console::Console,
    disk::Filesystem,
    initramfs::{Copied, Instructions},
    modules::{BOOT, Modules},
    session::{Outcome, Sink},
};
use crate::{build, paths, setup, setup::kernels::Kernel};

/// The kernel complained.
const COMPLAINT: u8 = 121;
/// The time was up.
const TIMEOUT: u8 = 122;
/// The machine did not boot, or ended before the command.
const FAILED: u8 = 123;
/// Nobody reads our output; what a shell says of a program that SIGPIPE ended.
const UNREAD: u8 = 141;

/// CPUs and megabytes of memory, unless told otherwise.
const SMP: u32 = 2;
const MEMORY: u32 = 1536;

/// Boots a kernel and runs COMMAND in it as root.
///
/// A fresh file system is mounted at /mnt/test (with several --fs each at /mnt/TYPE, the first at
/// /mnt/test too). premod, busybox and Debian's sqlite3, strace, fatrace, inotifywait, coreutils
/// and file system tools are in PATH. COMMAND's stdout and stderr are passed through; the kernel's
/// log goes to a file under target/vm/log.
///
/// Exit status: COMMAND's own, else 121 when the kernel complained (panic, oops, WARNING, BUG,
/// stall, hung task), 122 when the time was up, 123 when the machine did not boot or ended early.
///
/// With a shell as COMMAND and a terminal, the terminal is the guest's; Ctrl-] ends it.
#[derive(Args)]
pub(crate) struct Options {
    /// The kernel's series: 6.1, 6.12, 6.18, or 7 for the newest 7.x
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Boot this bzImage; its modules are taken from /lib/modules, or `modules` beside it
    #[arg(long, value_name = "FILE")]
    kernel_image: Option<PathBuf>,
    /// Give the guest a fresh file system of this type
    #[arg(long = "fs", value_name = "TYPE")]
    filesystems: Vec<Filesystem>,
    /// Copy a file or directory of the host into the guest (default: into /root)
    #[arg(long, value_name = "HOST[:GUEST]")]
    copy: Vec<Copied>,
    /// Number of CPUs
    #[arg(long, default_value_t = SMP)]
    smp: u32,
    /// Memory in MB
    #[arg(long, default_value_t = MEMORY)]
    memory: u32,
    /// Count instructions instead of time: slow, and the same in every run; one CPU
    #[arg(long)]
    icount: bool,
    /// Add to the kernel's command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    append: Vec<String>,
    /// Take bpf out of the kernel's list of security modules
    #[arg(long)]
    no_bpf_lsm: bool,
    /// Set a variable for COMMAND
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// End the machine after this many seconds (default: 600, none with a terminal)
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// Do not build and copy premod
    #[arg(long, hide = true)]
    without_premod: bool,
    /// What to run; several words are quoted and joined
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

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

/// How a run went.
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    /// The kernel's log.
    pub(crate) log: PathBuf,
    /// From QEMU's start to the command's.
    pub(crate) boot: Option<Duration>,
}

impl Options {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut needed = vec![setup::Part::Qemu, setup::Part::Guest];
        if self.kernel_image.is_none() {
            needed.push(setup::Part::Kernel(self.kernel.clone()));
        }
        if !self.without_premod {
            needed.extend(setup::BPF_PARTS);
        }
        setup::ensure(&needed)?;
        let kernel = match &self.kernel_image {
            Some(image) => Kernel::from_image(image)?,
            None => setup::kernel(&self.kernel)?,
        };
        let shell = matches!(self.command.as_slice(), [word] if is_shell(word));
        let terminal = shell && terminal::present();
        let timeout = match self.timeout {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None if terminal => None,
            None => Some(Duration::from_secs(600)),
        };
        let vm = Vm {
            programs: programs(!self.without_premod, &[])?,
            filesystems: self.filesystems,
            copied: self.copy,
            smp: self.smp,
            memory: self.memory,
            icount: self.icount,
            append: self.append,
            bpf_lsm: !self.no_bpf_lsm,
            environment: self.env,
            timeout,
            terminal,
            command: join_words(&self.command),
            kernel,
        };
        let label = format!("vm-{}", vm.kernel.release);
        vm.run(&label, &mut Output).map(|report| report.exit_code())
    }
}

/// Builds the statically linked programs of every guest, and with `more` further ones of premod;
/// returns the files and their places in the guest.
pub(crate) fn programs(with_premod: bool, more: &[(&str, &str)]) -> Result<Vec<(PathBuf, String)>> {
    let mut selection = vec!["--package", "premod-guest", "--bin", "premod-guest"];
    let mut places = vec![("premod-guest", "/init")];
    if with_premod {
        selection.extend(["--package", "premod", "--bin", "premod"]);
        places.push(("premod", "/usr/bin/premod"));
    }
    for (test, place) in more {
        selection.extend(["--test", test]);
        places.push((test, place));
    }
    let built = build::build_static(&selection)?;
    let path_of = |name| {
        built
            .iter()
            .find(|built| built.name == name)
            .map(|built| &built.path)
    };
    places
        .into_iter()
        .map(|(name, place)| {
            let path = path_of(name).with_context(|| format!("cargo did not build {name}"))?;
            Ok((path.clone(), place.to_owned()))
        })
        .collect()
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
        let modules = Modules::of(&self.kernel)?;
        let mut roots = BOOT.to_vec();
        let filesystems = self.distinct_filesystems();
        roots.extend(filesystems.iter().map(|filesystem| filesystem.name()));
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
            filesystems: filesystems
                .iter()
                .map(|filesystem| filesystem.name())
                .collect(),
            modules: modules.to_load(&roots)?,
            terminal: self.terminal,
        };
        initramfs::write(&initramfs, &directory.0, &modules, &instructions, &copied)?;
        let disks = filesystems
            .iter()
            .map(|filesystem| Ok((filesystem.name(), filesystem.template()?)))
            .collect::<Result<Vec<_>>>()?;
        let mut console = Console::create(label)?;
        let mut qemu = qemu::Machine {
            accel,
            icount: self.icount,
            smp: self.smp,
            memory: self.memory,
            kernel: &self.kernel.image,
            initramfs: &initramfs,
            command_line: &self.command_line()?,
            disks: &disks,
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
            ("HOME", "/root"),
            ("USER", "root"),
            ("TERM", &terminal),
        ];
        let standard = standard.map(|(name, value)| (name.to_owned(), value.to_owned()));
        standard
            .into_iter()
            .chain(self.environment.iter().cloned())
            .collect()
    }

    fn command_line(&self) -> Result<String> {
        // Level 7 keeps everything but debug messages, WARNINGs above all, in the log. A kernel
        // in trouble ends at once instead of waiting for the limit.
        let mut line =
            "console=ttyS0 loglevel=7 panic=-1 oops=panic mitigations=off rdinit=/init".to_owned();
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

impl Report {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.outcome {
            Outcome::Exited(status) => status,
            Outcome::Complaint(_) => COMPLAINT,
            Outcome::Timeout(_) => TIMEOUT,
            Outcome::Failed(_) => FAILED,
            Outcome::Unread => UNREAD,
        })
    }
}

/// Passes the command's output on.
pub(crate) struct Output;

impl Sink for Output {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(bytes)
    }
}

/// A directory for one run, removed at its end.
struct RunDirectory(PathBuf);

impl RunDirectory {
    fn create() -> Result<Self> {
        let runs = paths::vm().join("run");
        fs::create_dir_all(&runs).with_context(|| format!("mkdir {}", runs.display()))?;
        remove_leftovers(&runs);
        let directory = runs.join(std::process::id().to_string());
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

/// Removes the directories of runs that were killed; each is named after its process.
fn remove_leftovers(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// The command that several words make: each quoted for the shell. One word is a command line.
fn join_words(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => words
            .iter()
            .map(|word| quote(word))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn is_shell(word: &str) -> bool {
    matches!(word.rsplit('/').next(), Some("sh" | "ash" | "bash"))
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is not NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_words_are_quoted_and_one_is_a_command_line() {
        let words =
            |words: &[&str]| join_words(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&["echo $HOME | cat"]), "echo $HOME | cat");
        assert_eq!(
            words(&["echo", "it's", "", "a-b"]),
            r"echo 'it'\''s' '' a-b"
        );
    }

    #[test]
    fn bpf_is_taken_out_of_the_stock_list() {
        let config = "CONFIG_X=y\nCONFIG_LSM=\"landlock,yama,bpf,ipe\"\n";
        assert_eq!(without_bpf(config).unwrap(), "landlock,yama,ipe");
        assert_eq!(without_bpf("CONFIG_LSM_MMAP_MIN_ADDR=65536"), None);
    }
}
