//! Reads the kernel's console: keeps all of it, and notices when the kernel complains.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::paths;

/// Logs that are kept; older ones are removed.
const KEPT: usize = 60;

/// The console's log, as a file and as the lines since the first complaint.
pub(crate) struct Console {
    file: File,
    pub(crate) path: PathBuf,
    /// The last lines, for when the machine fails without a complaint.
    recent: Vec<String>,
    /// From the first complaint on.
    complaint: Vec<String>,
}

/// Lines that are shown of a failed machine.
const SHOWN: usize = 60;

impl Console {
    /// Opens the log of one run; `label` tells what ran.
    pub(crate) fn create(label: &str) -> Result<Self> {
        let directory = paths::vm().join("log");
        fs::create_dir_all(&directory).with_context(|| format!("mkdir {}", directory.display()))?;
        prune(&directory);
        let mut number = 0;
        loop {
            number += 1;
            let path = directory.join(format!("{label}-{}-{number}.log", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => {
                    let (recent, complaint) = (Vec::new(), Vec::new());
                    return Ok(Self {
                        file,
                        path,
                        recent,
                        complaint,
                    });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot create {}", path.display()));
                }
            }
        }
    }

    /// Takes one line of the console.
    pub(crate) fn line(&mut self, line: &str) {
        // A full disk must not end the run: the lines are still in memory.
        drop(writeln!(self.file, "{line}"));
        if !self.complaint.is_empty() || is_complaint(line) {
            if self.complaint.len() < SHOWN {
                self.complaint.push(line.to_owned());
            }
        } else {
            if self.recent.len() == SHOWN {
                self.recent.remove(0);
            }
            self.recent.push(line.to_owned());
        }
    }

    /// The first line of the kernel's first complaint.
    pub(crate) fn complaint(&self) -> Option<&str> {
        self.complaint.first().map(|line| without_time(line))
    }

    /// The lines that tell most about a failure.
    pub(crate) fn telling_lines(&self) -> &[String] {
        if self.complaint.is_empty() {
            &self.recent[self.recent.len().saturating_sub(SHOWN / 2)..]
        } else {
            &self.complaint
        }
    }
}

/// Removes the oldest logs.
fn prune(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut logs: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    logs.sort();
    let excess = logs.len().saturating_sub(KEPT);
    for (_, path) in &logs[..excess] {
        // Another run may have removed it already.
        drop(fs::remove_file(path));
    }
}

/// The line without the kernel's time stamp and, where it is configured, the caller.
fn without_time(line: &str) -> &str {
    let mut rest = line.trim_start();
    while let Some((_, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        rest = after.trim_start();
    }
    rest
}

/// Whether a line of the kernel's log says that the kernel itself is in trouble.
pub(crate) fn is_complaint(line: &str) -> bool {
    const STARTS: [&str; 15] = [
        "BUG: ",
        "BUG ",
        "WARNING: ",
        "Oops",
        "Kernel panic",
        "kernel BUG at ",
        "general protection fault",
        "divide error",
        "invalid opcode",
        "double fault",
        "stack segment",
        "traps: PANIC",
        "UBSAN: ",
        "KASAN: ",
        "Unable to handle kernel",
    ];
    const ANYWHERE: [&str; 7] = [
        "blocked for more than",
        "self-detected stall",
        "detected stalls on CPUs",
        "detected expedited stalls",
        "soft lockup",
        "hard LOCKUP",
        "list_add corruption",
    ];
    // Said once at boot, about the CPU that QEMU makes up.
    const HARMLESS: [&str; 1] = ["WARNING: Unprivileged eBPF"];
    // Without a time stamp it was not the kernel that wrote the line.
    if !line.trim_start().starts_with('[') {
        return false;
    }
    let text = without_time(line);
    if HARMLESS.iter().any(|harmless| text.starts_with(harmless)) {
        return false;
    }
    STARTS.iter().any(|start| text.starts_with(start))
        || ANYWHERE.iter().any(|part| text.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_of_old_and_new_kernels_are_noticed() {
        for line in [
            "[   12.345678] WARNING: CPU: 0 PID: 1 at kernel/fork.c:1 foo+0x1/0x2",
            "[   12.345678][  T123] WARNING: kernel/fork.c:1 at foo+0x1/0x2, CPU#0: sh/1",
            "[    1.000000] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[    1.000000] Oops: 0000 [#1] PREEMPT SMP NOPTI",
            "[    1.000000] Kernel panic - not syncing: Attempted to kill init!",
            "[  243.000000] INFO: task sync:88 blocked for more than 120 seconds.",
            "[   99.000000] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[   99.000000] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [sh:80]",
        ] {
            assert!(is_complaint(line), "{line}");
        }
    }

    #[test]
    fn ordinary_lines_are_no_complaints() {
        for line in [
            "[    0.000000] Command line: console=ttyS0 oops=panic panic=-1",
            "[    0.100000] RAS: Correctable Errors collector initialized.",
            "WARNING: a program that writes to the console",
            "[    0.100000] rcu: \tRCU CPU stall warnings timeout set to 21000",
            "[    0.100000] premod-guest: end of log",
        ] {
            assert!(!is_complaint(line), "{line}");
        }
    }
}
