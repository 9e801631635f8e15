//! Modifiers that are under way when premod comes: each is held in its gap on purpose.

use std::{fs::File, io::Write, os::unix::fs::FileExt, path::Path, thread, time::Duration};

use rustix::pipe::{SpliceFlags, pipe, splice};

use super::{premod::Freeze, process};
use crate::{
    harness::Place,
    spin::{self, Gap},
    tests,
    workload::clean_file,
};

tests! {
    Alone a_writer_that_was_permitted_before_premod_came_is_waited_for,
    Alone a_writer_that_sleeps_in_its_call_is_waited_for,
    Alone who_does_not_come_to_an_end_in_time_is_named,
}

/// How long premod is given to make the mistake of not waiting.
const TEMPTATION: Duration = Duration::from_secs(1);
/// A little less than the kernel's watchdogs bear, and longer than premod takes to start under emulation.
const SPIN: Duration = Duration::from_secs(15);

fn freeze(path: &Path, options: &[&str]) -> Freeze {
    let mut words = vec![path.to_str().expect("a plain path"), "--deny"];
    words.extend(options);
    Freeze::start(&words)
}

/// Waits until premod's programs hang: it listens from then on, and begins to close.
fn wait_until_attached(freeze: &Freeze) {
    let socket = format!("/run/premod/{}.sock", freeze.pid());
    process::wait_for("premod's socket", || Path::new(&socket).exists());
}

fn a_writer_that_was_permitted_before_premod_came_is_waited_for(place: &Place) {
    let path = place.file("data");
    let file = clean_file(&path);
    let mut open = spin::open(Gap::Permitted).with_limit(SPIN);
    let held = open.hold(move || file.write_all_at(&[b'1'; 4096], 0));
    let mut freeze = freeze(&path, &[]);
    wait_until_attached(&freeze);
    thread::sleep(TEMPTATION);
    assert!(!freeze.is_frozen(), "a writer is under way");
    let (written, _) = held.release();
    written.expect("it had been permitted");
    freeze.frozen();
    let bytes = std::fs::read(&path).expect("the file");
    assert_eq!(
        bytes[..4096],
        [b'1'; 4096],
        "its data came before the freeze"
    );
    freeze.signal(rustix::process::Signal::TERM);
    freeze.end().expect(0);
}

/// A splice out of an empty pipe: it has been permitted, and sleeps until there is something in the pipe.
fn sleeper(path: &Path) -> (thread::JoinHandle<rustix::io::Result<usize>>, File) {
    let file = File::options().write(true).open(path).expect("the file");
    let (from, into) = pipe().expect("a pipe");
    let sleeper =
        thread::spawn(move || splice(&from, None, &file, None, 100, SpliceFlags::empty()));
    (sleeper, into.into())
}

fn a_writer_that_sleeps_in_its_call_is_waited_for(place: &Place) {
    let path = place.file("data");
    drop(clean_file(&path));
    let (sleeper, mut into) = sleeper(&path);
    let mut freeze = freeze(&path, &[]);
    wait_until_attached(&freeze);
    thread::sleep(TEMPTATION);
    assert!(!freeze.is_frozen(), "a writer is under way");
    into.write_all(&[b'1'; 100]).expect("a pipe");
    let spliced = sleeper.join().expect("the sleeper");
    assert_eq!(spliced, Ok(100));
    freeze.frozen();
    let bytes = std::fs::read(&path).expect("the file");
    assert_eq!(bytes[..100], [b'1'; 100], "its data came before the freeze");
    freeze.signal(rustix::process::Signal::TERM);
    freeze.end().expect(0);
}

fn who_does_not_come_to_an_end_in_time_is_named(place: &Place) {
    let path = place.file("data");
    drop(clean_file(&path));
    let (sleeper, into) = sleeper(&path);
    let ended = freeze(&path, &["--timeout", "1s"]).end().expect(18);
    let own = format!("process {}", std::process::id());
    assert!(ended.stderr.contains(&own), "{ended:?}");
    drop(into);
    let spliced = sleeper.join().expect("the sleeper");
    assert_eq!(spliced, Ok(0), "the pipe has ended");
}
