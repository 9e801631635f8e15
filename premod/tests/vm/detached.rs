//! Waits until the kernel has taken off what a premod that has ended had attached.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// Longest wait: a tenth of a second for each program, and more on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until nobody detaches any more.
pub(crate) fn wait_until_detached() {
    let began = Instant::now();
    while is_detaching() {
        assert!(began.elapsed() < PATIENCE, "the programs stay attached");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a child of a premod that has ended is still at it.
pub(crate) fn is_detaching() -> bool {
    let processes = fs::read_dir("/proc").expect("/proc");
    processes.flatten().any(|process| {
        let comm = fs::read_to_string(process.path().join("comm"));
        // A zombie has let go of everything.
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        comm.is_ok_and(|comm| comm == "premod-detach\n") && !stat.contains(") Z ")
    })
}
