//! `cargo xtask vm`: boots a kernel and runs one command in it.

pub(crate) mod accel;
pub(crate) mod archive;
mod console;
pub(crate) mod disk;
mod initramfs;
mod machine;
mod modules;
mod qemu;
pub(crate) mod session;
pub(crate) mod terminal;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;

use self::{
    disk::Filesystem,
    session::{Outcome, Sink},
};
pub(crate) use self::{
    initramfs::Copied,
    initramfs::at_home,
    machine::{Report, Vm},
};
use crate::{build, setup, setup::kernels::Kernel};

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
pub(crate) const MEMORY: u32 = 1536;

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
}
