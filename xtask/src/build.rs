//! `cargo xtask build`: builds premod, for this machine or statically for the VM.

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::{exec, paths};

/// The target of static builds. Naming it keeps their flags away from build scripts and proc
/// macros, which cannot be linked statically.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds premod with its BPF programs.
#[derive(Args)]
pub(crate) struct Options {
    /// Optimise
    #[arg(long)]
    release: bool,
    /// Link statically, as the VM needs it (implies --release)
    #[arg(long = "static")]
    statically: bool,
}

impl Options {
    pub(crate) fn run(self) -> Result<ExitCode> {
        if self.statically {
            for path in build_static(&["--package", "premod", "--bin", "premod"])? {
                println!("{}", paths::shown(&path));
            }
        } else {
            println!("{}", paths::shown(&build_host(self.release)?));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(paths::root());
    command
}

/// Builds premod for this machine and returns the path of the binary.
pub(crate) fn build_host(release: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", "premod", "--bin", "premod"]);
    if release {
        command.arg("--release");
    }
    exec::run(&mut command)?;
    Ok(paths::target()
        .join(if release { "release" } else { "debug" })
        .join("premod"))
}

/// Builds what `selection` names statically in the release profile, without debug information
/// (the guest unpacks it into memory at every boot), and returns the executables.
pub(crate) fn build_static(selection: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = cargo();
    command
        .args(["build", "--release", "--target", STATIC_TARGET])
        .args([
            "--message-format",
            "json-render-diagnostics",
            "--target-dir",
        ])
        .arg(paths::target().join("static"))
        .args(selection)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-Ctarget-feature=+crt-static",
        )
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command
        .output()
        .with_context(|| format!("cannot run `{}`", exec::describe(&command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", exec::describe(&command), output.status);
    }
    executables(&String::from_utf8_lossy(&output.stdout))
}

/// The part of cargo's messages that names an executable.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// The executables that cargo's JSON messages name.
fn executables(messages: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).context("cargo wrote a message that is not JSON")?;
        found.extend(message.executable);
    }
    if found.is_empty() {
        bail!("cargo built no executable");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_taken_from_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":"/t/premod"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(executables(messages).unwrap(), [PathBuf::from("/t/premod")]);
        assert!(executables(r#"{"reason":"build-finished"}"#).is_err());
    }
}
