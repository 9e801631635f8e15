//! Modifiers that have begun before the freeze, and sleep in the middle of it for as long as they like.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use rustix::{
    pipe::{SpliceFlags, splice},
    process::Signal,
};

use super::{nowhere::Nowhere, premod::Freeze, process};
use crate::{harness::Place, tests, workload::clean_file};

tests! {
    Alone a_splice_that_waits_for_its_pipe_is_in_the_way,
    Alone a_write_that_sleeps_in_a_page_fault_changes_nothing_unnoticed,
}

/// A process in the middle of a modification of this file.
struct Asleep(Child);

impl Asleep {
    fn start(word: &str, file: &Path) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .arg(word)
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let pid = child.id();
        // Its modifying thread is the last one.
        let sleeps = || {
            let call = std::fs::read_to_string(format!("/proc/{pid}/task/{}/syscall", line.trim()));
            call.is_ok_and(|call| !call.starts_with("running") && !call.starts_with("-1"))
        };
        process::wait_for("it sleeps", sleeps);
        Self(child)
    }

    /// Lets it go on to its end, which has to be a good one.
    fn wake(mut self) {
        drop(self.0.stdin.take());
        let status = process::wait(&mut self.0);
        assert!(status.success(), "{status}");
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn content(file: &Path) -> Vec<u8> {
    std::fs::read(file).expect("read")
}

/// It has passed its check, and moves whatever comes into the pipe.
fn a_splice_that_waits_for_its_pipe_is_in_the_way(place: &Place) {
    let path = place.file("data");
    clean_file(&path);
    let asleep = Asleep::start("splice-from-nothing", &path);
    let name = path.to_str().expect("a plain path");
    let ended = Freeze::start(&[name, "--timeout", "3s", "--", "true"]).end();
    let ended = ended.expect(18);
    let pid = asleep.0.id().to_string();
    assert!(ended.stderr.contains(&pid), "{ended:?}");
    assert!(
        !process::is_stopped(asleep.0.id()),
        "it was left stopped: {ended:?}"
    );
    asleep.wake();
    assert_eq!(content(&path)[0], b's');
}

/// It has passed its check, and copies when its memory is there. That is either waited for in vain, or kept out,
/// or the freeze is violated.
fn a_write_that_sleeps_in_a_page_fault_changes_nothing_unnoticed(place: &Place) {
    let path = place.file("data");
    clean_file(&path);
    let asleep = Asleep::start("write-from-nowhere", &path);
    let name = path.to_str().expect("a plain path");
    let mut freeze = Freeze::start(&[name, "--timeout", "5s"]);
    let frozen = freeze.seek(|line| line["state"] == "frozen");
    if frozen.is_some() {
        let before = content(&path);
        asleep.wake_without_waiting();
        // Time to do what it can.
        thread::sleep(std::time::Duration::from_millis(500));
        let changed = content(&path) != before;
        freeze.signal(Signal::TERM);
        let ended = freeze.end();
        let code = ended.status.code();
        assert_eq!(code == Some(17), changed, "changed: {changed}, {ended:?}");
    } else {
        freeze.end().expect(18);
        asleep.wake();
    }
}

impl Asleep {
    /// Lets it go on, to be waited for by nobody.
    fn wake_without_waiting(mut self) {
        drop(self.0.stdin.take());
        thread::spawn(move || {
            let _ = self.0.wait();
        });
    }
}

/// Tells the thread that is about to modify.
fn say_thread() {
    println!("{}", rustix::thread::gettid().as_raw_nonzero());
}

fn open(path: &Path) -> File {
    File::options().write(true).open(path).expect("open")
}

/// `splice-from-nothing FILE`: moves what comes into a pipe, into which something comes when stdin ends.
pub(crate) fn splice_from_nothing(path: &Path) {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    let mut writer = File::from(writer);
    thread::spawn(move || {
        let _ = std::io::stdin().lines().count();
        writer.write_all(b"s").expect("room in the pipe");
    });
    let file = open(path);
    say_thread();
    let moved = splice(&reader, None, &file, Some(&mut 0), 1, SpliceFlags::empty());
    assert_eq!(moved, Ok(1));
}

/// `write-from-nowhere FILE`: writes a page that is not there before stdin ends.
pub(crate) fn write_from_nowhere(path: &Path) {
    let page = Nowhere::new();
    let bytes = page.bytes();
    let file = open(path);
    let writer = thread::spawn(move || {
        say_thread();
        file.write_all_at(bytes, 0).expect("pwrite");
    });
    let _ = std::io::stdin().lines().count();
    page.come();
    writer.join().expect("the writer");
}
