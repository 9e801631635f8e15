//! Processes: their states and their ends.

use std::{
    fs,
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for anything that has to end. Emulation is slow; a hang is still a failure.
const PATIENCE: Duration = Duration::from_secs(180);

/// The letter that /proc has for the state of a process; `?` if there is none.
pub(crate) fn state(pid: u32) -> char {
    fields(pid)
        .and_then(|fields| fields.chars().next())
        .unwrap_or('?')
}

/// Whether a process is stopped, by a signal or because somebody traces it.
pub(crate) fn is_stopped(pid: u32) -> bool {
    matches!(state(pid), 'T' | 't')
}

/// Parent of a process.
fn parent(pid: u32) -> Option<u32> {
    fields(pid)?.split(' ').nth(1)?.parse().ok()
}

/// What follows the name in /proc/PID/stat.
pub(crate) fn fields(pid: u32) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    text.rsplit_once(") ").map(|(_, rest)| rest.to_owned())
}

/// Children of a process whose command line contains a word.
pub(crate) fn children(pid: u32, word: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter(|id| parent(*id) == Some(pid) && command_line(*id).contains(word))
        .collect()
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Waits for a child, but not for ever.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("process {} did not end", child.id());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until something holds, but not for ever.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process id");
    rustix::process::kill_process(id, signal).expect("the process is there");
}
