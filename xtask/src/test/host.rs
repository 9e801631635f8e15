//! The checks and tests that need no VM.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{
    parts::Parts,
    table::{Counts, Row},
    verdict::Verdict,
};
use crate::{bpf, build, exec, lint, paths};

/// Where premod's tests are that have deadlines: not beside a VM, which takes the CPUs for as long as it likes.
const WITH_DEADLINES: &str = "freeze::tests::";

/// cargo's command for the tests of all crates but the BPF programs. Of fewer crates it would build what they depend on
/// once more, with other features.
const WORKSPACE_TESTS: [&str; 4] = ["test", "--workspace", "--exclude", "premod-ebpf"];

/// Which tests run.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    /// All whose name contains this, if it is given.
    All(Option<&'a str>),
    /// All but those that have deadlines.
    WithoutDeadlines,
}

/// Runs the checks (unless only some tests are asked for) and the tests.
pub(crate) fn run(which: Which<'_>, parts: &Parts) -> Vec<Row> {
    let row = |name: &str, check: &dyn Fn() -> Result<Option<Counts>>| {
        parts.time(name, || row(name, check))
    };
    let filter = match which {
        Which::All(filter) => filter,
        Which::WithoutDeadlines => None,
    };
    let mut rows = Vec::new();
    if filter.is_none() {
        rows.push(row("formatting", &|| {
            cargo(&["fmt", "--all", "--check"]).map(|()| None)
        }));
        rows.push(row("every crate opts into the lints", &|| {
            lint::check().map(|()| None)
        }));
        rows.push(row("clippy", &|| clippy().map(|()| None)));
        rows.push(row("BPF programs without warnings", &|| {
            bpf_warnings().map(|()| None)
        }));
    }
    rows.push(row("host tests", &|| tests(which).map(Some)));
    rows
}

/// Runs the tests that [`Which::WithoutDeadlines`] leaves out.
pub(crate) fn run_with_deadlines(parts: &Parts) -> Row {
    const NAME: &str = "host tests with deadlines";
    let mut command = build::cargo();
    command
        .args(WORKSPACE_TESTS)
        .args(["--lib", "--", WITH_DEADLINES]);
    parts.time(NAME, || row(NAME, || counted(&mut command).map(Some)))
}

/// Runs one check and says on stderr what it does and how it went.
fn row(name: &str, check: impl FnOnce() -> Result<Option<Counts>>) -> Row {
    eprintln!("test: {name} ...");
    let start = Instant::now();
    let result = check();
    let seconds = start.elapsed().as_secs_f32();
    let (verdict, counts, reason) = match result {
        Ok(counts) if counts.is_some_and(|counts| counts.failed > 0) => (
            Verdict::Fail,
            counts,
            Some("see cargo's output above".to_owned()),
        ),
        Ok(counts) => (Verdict::Pass, counts, None),
        Err(error) => (Verdict::Fail, None, Some(format!("{error:#}"))),
    };
    let word = if verdict == Verdict::Pass {
        "pass"
    } else {
        "FAIL"
    };
    eprintln!("test: {name}: {word} ({seconds:.1} s)");
    Row {
        name: name.to_owned(),
        place: None,
        fs: None,
        verdict,
        seconds,
        reason,
        counts,
    }
}

fn cargo(arguments: &[&str]) -> Result<()> {
    exec::run(build::cargo().args(arguments))
}

/// premod-ebpf cannot be built for the host; its warnings are looked for on their own.
fn clippy() -> Result<()> {
    cargo(&[
        "clippy",
        "--workspace",
        "--exclude",
        "premod-ebpf",
        "--all-targets",
        "--",
        "-Dwarnings",
    ])?;
    // What `--all-targets` leaves out, because it runs in the VM only. Targets of other packages with these names would
    // hide these, if all packages were named.
    cargo(&[
        "clippy",
        "--package",
        "premod",
        "--test=vm",
        "--test=freeze",
        "--test=soak",
        "--test=bench",
        "--",
        "-Dwarnings",
    ])
}

/// The part of a compiler message that is looked at.
#[derive(Deserialize)]
struct Message {
    message: Option<Diagnostic>,
    package_id: Option<String>,
}

#[derive(Deserialize)]
struct Diagnostic {
    level: String,
    rendered: Option<String>,
}

/// Builds the BPF programs as premod's build script does. cargo repeats the warnings of what is
/// built already, so this costs nothing when there is nothing to build.
fn bpf_warnings() -> Result<()> {
    let root = paths::root();
    let toolchain = bpf::Toolchain::find(root).map_err(anyhow::Error::msg)?;
    for object in bpf::OBJECTS {
        toolchain
            .build(root, object, &paths::target().join("bpf"))
            .map_err(anyhow::Error::msg)?;
        let mut command = toolchain.command(root, object);
        command.arg("--quiet").arg("--message-format=json");
        let mut warnings = 0;
        for line in exec::stdout(&mut command)?
            .lines()
            .filter(|line| line.starts_with('{'))
        {
            let message: Message = serde_json::from_str(line).context("not a cargo message")?;
            let ours = message.package_id.is_some_and(|id| id.contains("premod"));
            if let Some(diagnostic) = message.message
                && ours
                && diagnostic.level == "warning"
            {
                eprintln!("{}", diagnostic.rendered.unwrap_or_default());
                warnings += 1;
            }
        }
        if warnings > 0 {
            bail!("{} has {warnings} warnings", object.bin);
        }
    }
    Ok(())
}

/// Runs the tests of all crates, doc tests too. Their output goes to stderr as it comes; the
/// verdict lines in it are counted.
fn tests(which: Which<'_>) -> Result<Counts> {
    let mut command = build::cargo();
    command.args(WORKSPACE_TESTS).arg("--no-fail-fast");
    match which {
        Which::All(None) => {}
        Which::All(Some(filter)) => drop(command.args(["--", filter])),
        Which::WithoutDeadlines => drop(command.args(["--", "--skip", WITH_DEADLINES])),
    }
    let counts = counted(&mut command)?;
    Ok(counts)
}

fn counted(command: &mut Command) -> Result<Counts> {
    let described = exec::describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{described}`"))?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.with_context(|| format!("cannot read from `{described}`"))?;
            eprintln!("{line}");
            if let Some(binary) = parse_counts(&line) {
                counts.passed += binary.passed;
                counts.failed += binary.failed;
                counts.skipped += binary.skipped;
            }
        }
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{described}`"))?;
    if !status.success() && counts.failed == 0 {
        bail!("`{described}` failed ({status})");
    }
    Ok(counts)
}

/// The numbers in `test result: ok. 5 passed; 0 failed; 1 ignored; ...`.
fn parse_counts(line: &str) -> Option<Counts> {
    let (_, list) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let part = list.split("; ").find(|part| part.ends_with(word))?;
        part.split(' ').next()?.parse().ok()
    };
    Some(Counts {
        passed: number(" passed")?,
        failed: number(" failed")?,
        skipped: number(" ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_results_are_counted() {
        let line = "test result: FAILED. 5 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.00s";
        assert_eq!(
            parse_counts(line),
            Some(Counts {
                passed: 5,
                failed: 1,
                skipped: 2
            })
        );
        assert_eq!(parse_counts("test foo ... ok"), None);
    }
}
