//! What takes many processes: short forms of `cargo xtask soak`'s parts, on all filesystems at once.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{harness::Place, tests};

tests! {
    Alone hammered_files_hold_still,
    Alone databases_are_copied_whole,
    Alone when_premod_is_killed_everybody_runs_within_a_second,
    Alone however_a_freeze_ends_everybody_runs_within_a_second,
}

/// Runs a part of the other test program, whose last words become the reason of a failure.
fn run(part: &str, count: u32) {
    let directories = ["ext4", "xfs", "btrfs"]
        .map(|filesystem| Path::new("/mnt").join(filesystem))
        .into_iter()
        .filter(|mount| mount.is_dir())
        .map(|mount| mount.join("outside").join(part));
    let output = Command::new("premod-freeze")
        .args([part, &count.to_string()])
        .args(directories)
        .stdin(Stdio::null())
        .output()
        .expect("premod-freeze can be run");
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    eprint!("{stdout}");
    assert!(output.status.success(), "{}: {stderr}", output.status);
}

fn hammered_files_hold_still(_: &Place) {
    run("hammer", 2);
}

fn databases_are_copied_whole(_: &Place) {
    run("databases", 1);
}

fn when_premod_is_killed_everybody_runs_within_a_second(_: &Place) {
    run("kills", 2);
}

fn however_a_freeze_ends_everybody_runs_within_a_second(_: &Place) {
    run("ends", 1);
}
