//! What does not modify data makes no event.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{Read, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    coverage::{defragment, place_on_disk},
    harness::{Check, Place},
    tests,
    tools::run,
    trace::{Trace, about},
    workload::Mapping,
};

tests! {
    on Every;
    Shared what_does_not_modify_data_makes_no_event,
    Alone premod_does_not_report_itself_and_hides_nobody,
    Shared after_loading_only_the_needed_capabilities_are_left,
    Shared data_that_btrfs_moves_is_nobodys_change,
    Shared data_that_btrfs_moves_by_itself_is_nobodys_change on OldestAndNewest,
    Shared defragmentation_hides_no_write,
}

fn what_does_not_modify_data_makes_no_event(place: &Place) -> Check {
    let path = place.file("data");
    let renamed = place.file("renamed");
    let mut file = File::create(&path).expect("a new file");
    file.write_all(&[b'0'; 8192]).expect("room for two pages");
    file.sync_all().expect("fsync");
    Box::new(move |trace| {
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .expect("reading");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
        std::os::unix::fs::chown(&path, Some(1), Some(1)).expect("chown");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .expect("utimens");
        drop(
            OpenOptions::new()
                .read(true)
                .append(true)
                .open(&path)
                .expect("opening for writing"),
        );
        let both = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .expect("opening for both");
        assert_eq!(both.metadata().expect("fstat").len(), 8192);
        let mut private = Mapping::private(&both, 8192);
        private.store(0, b'1');
        private.store(4096, b'1');
        let shared = Mapping::shared(&both, 8192);
        assert_eq!(
            (shared.bytes()[0], shared.bytes()[4096]),
            (b'0', b'0'),
            "reading a mapping"
        );
        fs::rename(&path, &renamed).expect("renaming");
        fs::hard_link(&renamed, &path).expect("linking");
        file.sync_all().expect("fsync");
        assert_eq!(trace.events(), Vec::<serde_json::Value>::new());
    })
}

fn premod_does_not_report_itself_and_hides_nobody(place: &Place) {
    // premod's own output lies in the traced directory: it would report itself for ever.
    let log = place.file("log");
    let mut trace = premod_with_output(place, &log, &[]);
    fs::write(place.file("other"), "x").expect("writing");
    let text = wait_for(&log, "/other\"");
    assert!(!text.contains("/log\""), "{text}");
    // Somebody else's write to premod's own file is reported, although premod has dirtied it already.
    let mut shared = OpenOptions::new().append(true).open(&log).expect("the log");
    shared.write_all(b"").expect("an empty write");
    shared.write_all(b" \n").expect("a write");
    wait_for(&log, "/log\"");
    end(&mut trace);

    let mut trace = premod_with_output(place, &log, &["--own"]);
    fs::write(place.file("another"), "x").expect("writing");
    wait_for(&log, "/log\"");
    end(&mut trace);
}

fn premod_with_output(place: &Place, log: &Path, more: &[&str]) -> std::process::Child {
    use std::io::{BufRead, BufReader};
    let mut child = std::process::Command::new("premod")
        .args(["trace", "--json", "-o"])
        .arg(log)
        .args(more)
        .arg(&place.directory)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("premod can be run");
    let stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
    let tracing = stderr
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("tracing"));
    assert!(tracing, "premod ended at once");
    child
}

fn wait_for(log: &Path, wanted: &str) -> String {
    for _ in 0..600 {
        let text = fs::read_to_string(log).expect("the log");
        if text.contains(wanted) {
            return text;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!(
        "{wanted} did not come: {}",
        fs::read_to_string(log).expect("the log")
    );
}

fn end(child: &mut std::process::Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("premod runs");
    assert!(crate::trace::wait(child).success());
}

fn after_loading_only_the_needed_capabilities_are_left(_: &Place) -> Check {
    Box::new(only_the_needed_capabilities_are_left)
}

fn only_the_needed_capabilities_are_left(trace: &mut Trace) {
    let status = fs::read_to_string(format!("/proc/{}/status", trace.pid())).expect("premod runs");
    let value = |name: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .expect("a line");
        u64::from_str_radix(line.split_whitespace().nth(1).expect("a value"), 16).expect("hex")
    };
    // CAP_DAC_READ_SEARCH is 2, CAP_PERFMON is 38, CAP_BPF is 39.
    let needed = 1 << 2 | 1 << 38 | 1 << 39;
    assert_eq!(value("CapEff:"), needed, "{status}");
    assert_eq!(value("CapPrm:"), needed, "{status}");
    assert_eq!(value("CapInh:"), 0, "{status}");
    assert_eq!(value("NoNewPrivs:"), 1, "{status}");
    assert_eq!(trace.events(), Vec::<serde_json::Value>::new());
}

/// The filesystem that the place is on.
fn mount_point(place: &Place) -> &str {
    let traced = place.directory.parent().and_then(Path::parent);
    traced.and_then(Path::to_str).expect("a plain path")
}

/// A balance moves all data, through an inode of its own.
fn data_that_btrfs_moves_is_nobodys_change(place: &Place) -> Check {
    let path = place.file("data");
    let place = place.clone();
    Box::new(move |trace| {
        if place.filesystem != "btrfs" {
            return;
        }
        let file = File::create_new(&path).expect("a new file");
        file.write_all_at(&[b'x'; 1 << 20], 0).expect("writing");
        rustix::fs::sync();
        assert_eq!(about(&trace.events(), &path).len(), 1);
        let before = place_on_disk(&file);
        run("btrfs", &["balance", "start", "-d", mount_point(&place)]);
        assert_ne!(place_on_disk(&file), before, "it was not moved");
        rustix::fs::sync();
        assert_eq!(trace.events(), Vec::<serde_json::Value>::new());
        file.write_all_at(b"y", 0).expect("writing");
        assert_eq!(about(&trace.events(), &path).len(), 1);
    })
}

/// The mount option `autodefrag`: a thread of the kernel does it, some time after small writes.
fn data_that_btrfs_moves_by_itself_is_nobodys_change(place: &Place) -> Check {
    let path = place.file("data");
    let place = place.clone();
    Box::new(move |trace| {
        if place.filesystem != "btrfs" {
            return;
        }
        let remount = |options| run("mount", &["-o", options, mount_point(&place)]);
        remount("remount,autodefrag,commit=1");
        let file = File::create_new(&path).expect("a new file");
        // From the end, so that no two extents are one.
        for block in (0..32).rev() {
            file.write_all_at(&[b'x'; 4096], block * 4096)
                .expect("writing");
            file.sync_all().expect("fsync");
        }
        let _ = trace.events();
        let before = place_on_disk(&file);
        let began = Instant::now();
        while place_on_disk(&file) == before {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "it was not moved"
            );
            std::thread::sleep(Duration::from_millis(200));
            file.sync_all().expect("fsync");
        }
        remount("remount,noautodefrag,commit=30");
        assert_eq!(trace.events(), Vec::<serde_json::Value>::new());
        file.write_all_at(b"y", 0).expect("writing");
        assert_eq!(about(&trace.events(), &path).len(), 1);
    })
}

/// It leaves dirty pages behind, which are nobody's change. What is written to them is.
fn defragmentation_hides_no_write(place: &Place) -> Check {
    let path = place.file("data");
    let place = place.clone();
    Box::new(move |trace| {
        if place.filesystem != "btrfs" {
            return;
        }
        let file = File::create_new(&path).expect("a new file");
        file.write_all_at(&[b'x'; 65536], 0).expect("writing");
        // Once more, so that the file is known to be dirty and announced.
        file.write_all_at(b"x", 0).expect("writing");
        file.sync_all().expect("fsync");
        assert_eq!(about(&trace.events(), &path).len(), 1);
        for _ in 0..3 {
            defragment(&file);
            assert_eq!(about(&trace.events(), &path).len(), 0);
            file.write_all_at(b"y", 0).expect("writing");
            file.write_all_at(b"y", 1).expect("writing");
            let events = trace.events();
            let events = about(&events, &path);
            assert_eq!(events.len(), 1, "{events:?}");
            assert_eq!(events[0]["pre"], true, "{events:?}");
            defragment(&file);
            file.sync_all().expect("fsync");
            assert_eq!(about(&trace.events(), &path).len(), 0);
        }
    })
}
