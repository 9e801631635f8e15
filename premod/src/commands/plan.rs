//! `premod freeze --dry-run`: who uses the files, and what would happen to them.

use anyhow::Result;
use premod_common::guard::MmapPolicy;
use serde::Serialize;

use super::{freeze::Settings, show};
use crate::{
    events::Pid,
    freeze::{
        Access, Target, User,
        report::{CommName, PathName},
    },
    output::{json::SCHEMA, json_line, printable},
};

#[derive(Serialize)]
struct PlanLine {
    schema: u32,
    r#type: &'static str,
    pid: Pid,
    #[serde(flatten)]
    comm: CommName,
    threads: usize,
    files: Vec<UsedFile>,
    fate: &'static str,
}

#[derive(Serialize)]
struct UsedFile {
    #[serde(flatten)]
    path: PathName,
    open_for_writing: bool,
    mapped_writable: bool,
}

/// Shows it; returns the exit status.
pub(super) fn show_plan(users: &[User], targets: &[Target], settings: &Settings) -> Result<u8> {
    let mut text = Vec::new();
    for user in users {
        let fate = fate(user, settings);
        if settings.json {
            text.extend(json_line(&line(user, targets, fate)));
        } else {
            text.extend(format!("{}\n", sentence(user, targets, fate)).into_bytes());
        }
    }
    show(&text)?;
    if users.is_empty() {
        say!(
            "premod: nobody has any of the files open for writing, or mapped so that it could store"
        );
    }
    Ok(0)
}

/// What would happen to a process.
fn fate(user: &User, settings: &Settings) -> &'static str {
    let maps = user.maps();
    match (settings.mmap, settings.deny.is_some()) {
        (MmapPolicy::Stop, _) if maps => "held from the beginning",
        (MmapPolicy::Hold | MmapPolicy::Kill, _) if maps && user.evades_a_stop() => {
            "held from the beginning"
        }
        (MmapPolicy::Hold, _) if maps => "held if it writes, stopped if it stores",
        (MmapPolicy::Kill, _) if maps => "killed if it stores",
        (MmapPolicy::Report, _) if maps => "left alone; a store violates the freeze",
        (_, true) => "its writes fail",
        // Its requests could not be repeated.
        (_, false) if user.has_ring() => "held from the beginning",
        (_, false) => "held if it writes",
    }
}

fn sentence(user: &User, targets: &[Target], fate: &str) -> String {
    let files: Vec<String> = user
        .files
        .iter()
        .map(|&(number, access)| {
            let path = targets[number].path.as_os_str().as_encoded_bytes();
            format!("{} ({})", printable(path), words(access))
        })
        .collect();
    let comm = printable(&user.comm);
    format!("{comm} ({}): {fate}: {}", user.pid, files.join(", "))
}

fn words(access: Access) -> &'static str {
    match (access.open, access.mapped) {
        (true, true) => "open, mapped",
        (false, true) => "mapped",
        _ => "open",
    }
}

fn line(user: &User, targets: &[Target], fate: &'static str) -> PlanLine {
    use std::os::unix::ffi::OsStrExt;
    PlanLine {
        schema: SCHEMA,
        r#type: "user",
        pid: Pid(user.pid),
        comm: CommName(user.comm.clone()),
        threads: user.threads,
        files: user
            .files
            .iter()
            .map(|&(number, access)| UsedFile {
                path: PathName(targets[number].path.as_os_str().as_bytes().to_vec().into()),
                open_for_writing: access.open,
                mapped_writable: access.mapped,
            })
            .collect(),
        fate,
    }
}
