//! docs/benchmarks.md, and its pictures.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    baseline::Baseline,
    plot, readme,
    results::{Measured, thousands},
};
use crate::paths;

/// The operation whose cost is drawn.
const HOT: &str = "pwrite of 512 bytes, already dirty";

/// Watchers with many inodes, and how many.
const TRACKED: [(&str, f64); 3] = [
    ("premod trace, 1,000 inodes tracked", 1e3),
    ("premod trace, 100,000 inodes tracked", 1e5),
    ("premod trace, 1,000,000 inodes tracked", 1e6),
];

const HEAD: &str = "# What premod costs

Written by `cargo xtask bench`, which takes a quarter of an hour for each kernel; `--kernel K` measures one and leaves the
others as they are. The numbers are in [bench/baseline.json](../bench/baseline.json), and `cargo xtask test` fails
if premod adds more than 5 % more instructions to one of the single operations.

**Instructions** are counted in a machine whose clock counts them (QEMU's `-icount`): they do not depend on the
machine that QEMU runs on, and two runs agree. Memory that is slow to come, branches that are guessed wrong and locks that
are contended do not show. The first column is what the operation takes if nobody watches; the others are what a
watcher adds to it. All of a kernel's numbers are from one boot and from the same file; each is the median of 101
samples (7 for whole programs). The path has six components. The operation runs before everything else (`SCHED_FIFO`)
and gives the watcher the time to read its events between the samples, so that what is added is what the kernel
does in the writer's own time: deciding, making the record, and waking the watcher. What whole programs and direct writes
take is their own CPU time. The watcher's own time for an event is in the last row: its system calls are part of it.

*file inside* traces the subtree with the file, *file outside* another one, *everything* has no PATH. With *N inodes
tracked* the map of inodes has N more entries, put there by the benchmark. The fanotify listeners are the
least that a program can do, and mark the filesystem; inotifywait watches the whole tree, fatrace the mount. bpftrace,
auditd and fio are not among them: the virtual machine has no room for LLVM, no audit trail to write to, and fio's
package wants the libraries of Ceph and Gluster; the two random writes are its randwrite.

Before each first change after fsync, and each ftruncate, the file gets an old time of modification. So every sample
brings the inode into the journal, and finds a transaction there; without that, it depended on how much time had passed
since the last sample, and was worth 5,000 instructions.
";

/// Where the instructions go, and why they cannot be fewer. Written by hand.
const PLACES: &str = include_str!("places.md");

/// Writes everything that is known.
pub(crate) fn write(baseline: &Baseline) -> Result<()> {
    let docs = paths::root().join("docs");
    let pictures = docs.join("bench");
    fs::create_dir_all(&pictures).context("cannot make docs/bench")?;
    let mut text = HEAD.to_owned();
    let mut kernels = Vec::new();
    for measured in &baseline.0 {
        let points: Vec<(f64, f64)> = TRACKED
            .iter()
            .filter_map(|(watcher, count)| Some((*count, measured.added(watcher, HOT)? as f64)))
            .collect();
        if points.len() > 1 {
            kernels.push((measured.kernel.clone(), points));
        }
        let picture = format!("dirty-{}.svg", measured.kernel);
        plot::bars(&pictures.join(&picture), measured, HOT)?;
        section(&mut text, measured, &picture);
    }
    text.push('\n');
    text.push_str(PLACES);
    if !kernels.is_empty() {
        plot::growth(&pictures.join("tracked.svg"), &kernels)?;
        text.push_str("\n## More inodes\n\n![cost by tracked inodes](bench/tracked.svg)\n");
    }
    times(&mut text, baseline);
    losses(&mut text, baseline, &pictures)?;
    verifier(&mut text, baseline);
    fs::write(docs.join("benchmarks.md"), text).context("cannot write docs/benchmarks.md")?;
    readme::write(baseline)
}

fn section(text: &mut String, measured: &Measured, picture: &str) {
    let _ = write!(
        text,
        "\n## {}\n\n{} on {}.\n\n{}\n",
        measured.kernel,
        measured.release,
        measured.filesystem,
        measured.render()
    );
    for absent in &measured.absent {
        let _ = writeln!(
            text,
            "{} is not there: {}.\n",
            absent.watcher, absent.absent
        );
    }
    let _ = writeln!(text, "![an already dirty write](bench/{picture})");
}

/// What is measured in time.
fn times(text: &mut String, baseline: &Baseline) {
    let timed: Vec<&Measured> = baseline
        .0
        .iter()
        .filter(|measured| !measured.figures.is_empty())
        .collect();
    let Some(first) = timed.first() else { return };
    text.push_str(
        "\n## In time\n\nMeasured on two CPUs that QEMU emulates, which is slower than any machine by a factor of ten or \
         more: read the ratios.\n\n|  |",
    );
    for measured in &timed {
        let _ = write!(text, " {} |", measured.kernel);
    }
    let _ = write!(text, "\n| --- |{}\n", " ---: |".repeat(timed.len()));
    for figure in &first.figures {
        let _ = write!(text, "| {} |", figure.figure);
        for measured in &timed {
            let found = measured
                .figures
                .iter()
                .find(|other| other.figure == figure.figure);
            let value = found.map_or("-".to_owned(), |found| short(found.value));
            let _ = write!(text, " {value} |");
        }
        text.push('\n');
    }
}

/// What is lost when events come faster.
fn losses(text: &mut String, baseline: &Baseline, pictures: &Path) -> Result<()> {
    let mut lines = Vec::new();
    for measured in &baseline.0 {
        let mut buffers: Vec<u64> = measured.losses.iter().map(|loss| loss.buffer).collect();
        buffers.sort_unstable();
        buffers.dedup();
        for buffer in buffers {
            let of_buffer = measured.losses.iter().filter(|loss| loss.buffer == buffer);
            let mut points: Vec<(f64, f64)> = of_buffer
                .map(|loss| (loss.rate, loss.lost * 100.0))
                .collect();
            points.sort_by(|one, other| one.0.total_cmp(&other.0));
            lines.push((format!("{}, {} KiB", measured.kernel, buffer >> 10), points));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    plot::losses(&pictures.join("losses.svg"), &lines)?;
    text.push_str(
        "\nWhat is lost, of 10,000 files that are dirtied at different rates, with the default buffer and with a \
         small one:\n\n![loss by rate](bench/losses.svg)\n",
    );
    Ok(())
}

fn short(value: f64) -> String {
    if value.fract() == 0.0 || value >= 100.0 {
        thousands(value as u64)
    } else {
        format!("{value:.2}")
    }
}

/// How near the programs are to the verifier's limit.
fn verifier(text: &mut String, baseline: &Baseline) {
    text.push_str(
        "\n## The verifier\n\nInstructions that the verifier goes through; it takes a million of one program.\n\n\
         | kernel | programs | all together | the largest |\n| --- | ---: | ---: | --- |\n",
    );
    for measured in &baseline.0 {
        let all: u64 = measured
            .programs
            .iter()
            .map(|program| program.verified)
            .sum();
        let Some(largest) = measured
            .programs
            .iter()
            .max_by_key(|program| program.verified)
        else {
            continue;
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} ({}) |",
            measured.kernel,
            measured.programs.len(),
            thousands(all),
            largest.program,
            thousands(largest.verified)
        );
    }
}
