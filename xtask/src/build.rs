//! `cargo xtask build`: builds premod, for this machine or statically for the VM.

use std::{
    env,
    io::Read as _,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
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
            for built in build_static(&["--package", "premod", "--bin", "premod"])? {
                println!("{}", paths::shown(&built.path));
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

/// An executable that cargo built: the name of its target, and the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Executable {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// Builds what `selection` names statically in the release profile, without debug information
/// (the guest unpacks it into memory at every boot), and returns the executables.
pub(crate) fn build_static(selection: &[&str]) -> Result<Vec<Executable>> {
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--release", "--target", STATIC_TARGET])
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
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    executables(&quietly(&mut command, "what runs in the guest")?)
}

/// How often a long build shows that it goes on.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// Runs a quiet cargo and returns its stdout. Only when it has something to do, which takes it
/// more than a moment, a line on stderr says that `what` is being built.
fn quietly(command: &mut Command, what: &str) -> Result<String> {
    let start = Instant::now();
    let described = exec::describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{described}`"))?;
    let stdout = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stdout
            .map(|mut stdout| stdout.read_to_string(&mut text))
            .transpose()
            .map(|_| text)
    });
    let mut due = Duration::from_secs(1);
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for cargo")? {
            break status;
        }
        if start.elapsed() > due {
            eprintln!("build: {what} ... {} s", start.elapsed().as_secs());
            due = start.elapsed() + HEARTBEAT;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let said = due > Duration::from_secs(1);
    if !status.success() {
        bail!("`{described}` failed ({status})");
    }
    if said {
        eprintln!("build: {what}: done in {} s", start.elapsed().as_secs());
    }
    let text = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader of cargo's output panicked"))?;
    text.with_context(|| format!("cannot read the output of `{described}`"))
}

/// The parts of cargo's messages that tell of an executable.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// The executables that cargo's JSON messages name.
fn executables(messages: &str) -> Result<Vec<Executable>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).context("cargo wrote a message that is not JSON")?;
        if let (Some(path), Some(Target { name })) = (message.executable, message.target) {
            found.push(Executable { name, path });
        }
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
            r#"{"reason":"compiler-artifact","target":{"name":"x"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"premod"},"executable":"/t/premod"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let premod = Executable {
            name: "premod".to_owned(),
            path: PathBuf::from("/t/premod"),
        };
        assert_eq!(executables(messages).unwrap(), [premod]);
        assert!(executables(r#"{"reason":"build-finished"}"#).is_err());
    }
}
