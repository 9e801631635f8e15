//! Runs other programs; every error names the command that failed.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Lines of a failed command's output that its error shows.
const SHOWN_LINES: usize = 25;

/// The command as a person would type it.
pub(crate) fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// Runs `command` with its messages on our stderr; its stdout goes there too, because ours is
/// for data only.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let stderr = std::io::stderr();
    let stdout = rustix::io::dup(&stderr).context("cannot duplicate stderr")?;
    let status = command
        .stdin(Stdio::null())
        .stdout(stdout)
        .status()
        .with_context(|| format!("cannot run `{}`", describe(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", describe(command));
    }
    Ok(())
}

/// Runs `command` and returns what it wrote. When it fails, the end of its output goes to stderr
/// before the error, which stays one line.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", describe(command)))?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = text.lines().collect();
        let mut stderr = std::io::stderr().lock();
        writeln!(stderr)?;
        for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
            writeln!(stderr, "  | {line}")?;
        }
        bail!("`{}` failed ({})", describe(command), output.status);
    }
    Ok(output)
}

/// Runs `command` and returns its stdout as text.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` wrote something that is not text", describe(command)))
}
