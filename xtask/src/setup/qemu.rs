//! Installs QEMU.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use super::apt::{Mirrors, PrivateApt};
use crate::exec;

/// The program that emulates the guest's machine.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// The first major version whose emulation of cmpxchg16b is right under several threads.
pub(crate) const GOOD: u32 = 9;

/// The version of the installed QEMU.
pub(crate) fn version() -> Option<String> {
    let output = Command::new(PROGRAM).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    parse_version(&text)
}

fn parse_version(text: &str) -> Option<String> {
    let version = text
        .strip_prefix("QEMU emulator version ")?
        .split([' ', '\n'])
        .next()?;
    Some(version.to_owned())
}

/// The major part of a version.
pub(crate) fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// Installs QEMU from the release or its backports, whichever is newer. An old one will do when
/// there is no other: the VM then goes without the instruction that it gets wrong.
pub(crate) fn install(apt: &PrivateApt) -> Result<String> {
    let backports = format!("{}-backports", Mirrors::find()?.release);
    let candidate = exec::stdout(apt.command("apt-cache").args(["policy", "qemu-system-x86"]))?;
    let old = candidate_major(&candidate).is_none_or(|major| major < GOOD);
    let mut install = apt.command("apt-get");
    install.args(["install", "--yes", "--no-install-recommends", "-q"]);
    if old {
        let mut newer = install_again(&install);
        // -t takes QEMU's own data packages from there too; nothing else of this machine is
        // newer there than what QEMU asks for.
        newer.args(["-t", &backports, "qemu-system-x86"]);
        if exec::output(&mut newer).is_ok() {
            return installed();
        }
    }
    exec::output(install.arg("qemu-system-x86"))?;
    installed()
}

fn install_again(command: &Command) -> Command {
    let mut again = Command::new(command.get_program());
    again.args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            again.env(name, value);
        }
    }
    again
}

fn installed() -> Result<String> {
    let version = version().context("QEMU was installed and does not run")?;
    // A new QEMU may be able to do what the last one could not.
    drop(fs::remove_file(crate::vm::accel::cache()));
    Ok(version)
}

/// The major version of the candidate in the output of `apt-cache policy`.
fn candidate_major(policy: &str) -> Option<u32> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    major(upstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_qemu_and_apt() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        assert_eq!(parse_version(text).unwrap(), "10.0.2");
        assert_eq!(major("10.0.2"), Some(10));
        let policy = "qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:7.2+dfsg-7+deb12u1\n";
        assert_eq!(candidate_major(policy), Some(7));
        assert_eq!(candidate_major("  Candidate: (none)"), None);
    }
}
