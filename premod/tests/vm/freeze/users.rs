//! Who uses a file is known to the kernel: whatever the users are called, by whatever name they have opened it, and
//! whichever of their threads are left. Each user here can store to a page while another thread of it, or another process
//! with its memory, faults: it must have been stopped beforehand.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    memory,
    policies::{actor, outcome, records, terminate},
    premod::Freeze,
    process,
};
use crate::{
    freeze::actor::Outcome,
    harness::Place,
    tests,
    workload::{Mapping, clean_file},
};

tests! {
    Alone users_are_found_whatever_they_are_called,
    Alone users_behind_an_overlay_are_found,
    Alone a_process_whose_first_thread_has_ended_is_held_and_goes_on,
    Alone a_process_that_two_freezes_hold_goes_on_after_both,
    Alone a_paused_control_group_is_not_waited_for,
}

/// A process that has a file mapped, and stores to it when it is told.
pub(super) struct Storer {
    pub(super) child: Child,
    path: PathBuf,
}

impl Storer {
    pub(super) fn start(program: &Path, how: &str, paths: &[&Path]) -> Self {
        let mut child = Command::new(program)
            // The task is called as the file is; this one has to be read as UTF-8.
            .arg0("premod-vm-test")
            .args(["store-beside", how])
            .args(paths)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "{how}");
        let path = paths[0].to_owned();
        Self { child, path }
    }

    /// Freezes the file by this name of it, tells the process to store, and expects it not to before the thaw.
    pub(super) fn must_not_store(mut self, file: &Path) {
        let before = fs::read(&self.path).expect("read");
        let name = file.to_str().expect("a plain path");
        let mut freeze = Freeze::start(&[name, "--mmap", "hold"]);
        let report = freeze.frozen();
        drop(self.child.stdin.take());
        thread::sleep(Duration::from_secs(1));
        assert_eq!(fs::read(&self.path).expect("read"), before, "{report}");
        let ended = terminate(freeze).expect(0);
        assert!(records(&ended, "violated").is_empty(), "{ended:?}");
        let status = process::wait(&mut self.child);
        assert!(status.success(), "{status}");
        assert_ne!(
            fs::read(&self.path).expect("read"),
            before,
            "it stores then"
        );
    }
}

impl Drop for Storer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program, which acts as a [`Storer`].
pub(super) fn own() -> PathBuf {
    fs::read_link("/proc/self/exe").expect("this program")
}

pub(super) fn clean(place: &Place, name: &str) -> PathBuf {
    let path = place.file(name);
    clean_file(&path);
    path
}

fn users_are_found_whatever_they_are_called(place: &Place) {
    let own = fs::read("/proc/self/exe").expect("this program");
    let odd = place
        .directory
        .join(std::ffi::OsStr::from_bytes(b"\xff\n(x) R 1"));
    for program in [Path::new("/SYSVz"), Path::new("/SYSV"), &odd] {
        fs::write(program, &own).expect("a copy");
        fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .expect("chmod");
        let path = clean(place, "data");
        let storer = Storer::start(program, "thread", &[&path]);
        let users = listed(&path);
        let found = |user: &Value| user["pid"] == storer.child.id() && user["threads"] == 2;
        assert!(users.iter().any(found), "{}: {users:?}", program.display());
        storer.must_not_store(&path);
        fs::remove_file(program).expect("unlink");
    }
}

/// What a dry run says of a file.
fn listed(path: &Path) -> Vec<Value> {
    let output = Command::new("premod")
        .args(["freeze", "--dry-run", "--json"])
        .arg(path)
        .output()
        .expect("premod can be run");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let line = |line| serde_json::from_str(line).expect("JSON");
    text.lines().map(line).collect()
}

fn users_behind_an_overlay_are_found(place: &Place) {
    let mut writer = actor(place, "overlayfs: write");
    let upper = PathBuf::from(&writer.files[0].path);
    let merged = place.outside.join("overlayfs__write/merged/data");
    let found = |open: bool, mapped: bool, pid: u32| {
        let users = listed(&upper);
        let file = users.iter().find(|user| user["pid"] == pid);
        let file = &file.unwrap_or_else(|| panic!("{users:?}"))["files"][0];
        assert_eq!(file["open_for_writing"], open, "{file}");
        assert_eq!(file["mapped_writable"], mapped, "{file}");
    };
    found(true, false, writer.pid());
    let storer = Storer::start(&own(), "thread", &[&merged]);
    found(false, true, storer.child.id());
    storer.must_not_store(&upper);
    assert_eq!(outcome(&mut writer), Outcome::Made);
}

fn a_process_whose_first_thread_has_ended_is_held_and_goes_on(place: &Place) {
    let path = clean(place, "data");
    let storer = Storer::start(&own(), "last", &[&path]);
    assert_eq!(process::state(storer.child.id()), 'Z', "its first thread");
    storer.must_not_store(&path);
}

/// It has two files mapped, and each freeze relies on that it stands still.
fn a_process_that_two_freezes_hold_goes_on_after_both(place: &Place) {
    let (one, other) = (clean(place, "one"), clean(place, "other"));
    let mut storer = Storer::start(&own(), "thread", &[&one, &other]);
    let frozen = |path: &Path| {
        let mut freeze = Freeze::start(&[path.to_str().expect("a plain path")]);
        freeze.frozen();
        freeze
    };
    let (first, second) = (frozen(&one), frozen(&other));
    drop(storer.child.stdin.take());
    let ended = terminate(first).expect(0);
    assert!(
        ended.stderr.contains("another premod holds it"),
        "{ended:?}"
    );
    thread::sleep(Duration::from_millis(300));
    assert!(process::is_stopped(storer.child.id()), "{ended:?}");
    terminate(second).expect(0);
    let status = process::wait(&mut storer.child);
    assert!(status.success(), "{status}");
}

/// `docker pause`: it changes nothing, and never stops.
fn a_paused_control_group_is_not_waited_for(place: &Place) {
    let path = clean(place, "data");
    let storer = Storer::start(&own(), "thread", &[&path]);
    let group = Path::new("/sys/fs/cgroup/premod-paused");
    fs::create_dir(group).expect("a control group");
    let set = |file: &str, value: String| fs::write(group.join(file), value).expect("cgroup");
    set("cgroup.procs", storer.child.id().to_string());
    set("cgroup.freeze", "1".to_owned());
    process::wait_for("it is paused", || {
        fs::read_to_string(group.join("cgroup.events")).is_ok_and(|all| all.contains("frozen 1"))
    });
    let mut freeze = Freeze::start(&[path.to_str().expect("a plain path")]);
    let frozen = freeze.seek(|line| line["state"] == "frozen");
    set("cgroup.freeze", "0".to_owned());
    assert!(frozen.is_some(), "{:?}", freeze.end());
    // It goes on where it stopped: that is in the freeze.
    process::wait_for("it stops", || process::is_stopped(storer.child.id()));
    terminate(freeze).expect(0);
    process::wait_for("it goes on", || !process::is_stopped(storer.child.id()));
    drop(storer);
    process::wait_for("the group is empty", || fs::remove_dir(group).is_ok());
}

/// `store-beside HOW FILE...`: has the files mapped, and stores to the first when stdin ends, beside a first thread that
/// waits (`thread`), or that has ended (`last`), or in another process with the same memory (`process`); or itself, beside such
/// a process that it makes when it is told the first time (`late company`); or itself, after such a process that it waits for in
/// vfork (`vfork`); or stores and crashes (`crash`).
pub(crate) fn store_beside(how: &str, paths: &[String]) {
    let map = |path: &String| {
        let file = File::options().read(true).write(true).open(path);
        let mapping = Mapping::shared(&file.expect("open"), 4096);
        // SAFETY: the first byte of the mapping; the page is there from now on.
        unsafe { mapping.at(0).read_volatile() };
        mapping
    };
    let mut mappings: Vec<Mapping> = paths.iter().map(map).collect();
    // These are when somebody else is there, or waits.
    let is_ready_before = matches!(how, "late company" | "vfork");
    let mut store = move || {
        if !is_ready_before {
            println!("ready");
        }
        while rustix::io::read(std::io::stdin(), &mut [0; 1]).is_ok_and(|count| count > 0) {}
        mappings[0].store(0, b'1');
    };
    match how {
        "process" => memory::beside_in_a_process(store),
        "late company" => memory::with_late_company(store),
        "vfork" => memory::after_vfork(store),
        "crash" => {
            store();
            std::process::abort();
        }
        "last" => {
            thread::spawn(move || {
                // Not before the first thread has ended.
                thread::sleep(Duration::from_millis(200));
                store();
                std::process::exit(0);
            });
            // SAFETY: ends this thread, which owns nothing that another one needs.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        _ => thread::spawn(store).join().expect("the storing thread"),
    }
}
