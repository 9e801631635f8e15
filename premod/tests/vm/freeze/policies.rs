//! What happens to whoever wants to modify a frozen file, as the options say.

use std::{thread, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    actor::{Actor, Outcome},
    premod::{Ended, Freeze},
    process,
};
use crate::{harness::Place, tests};

tests! {
    Alone a_writer_gets_the_errno_that_was_asked_for on Every,
    Alone with_mmap_kill_a_store_kills_its_process,
    Alone with_mmap_report_a_store_violates_the_freeze,
    Alone whoever_maps_a_file_is_stopped_beforehand,
    Alone with_mmap_hold_a_process_is_stopped_at_its_first_store,
    Alone a_record_tells_of_each_writer on Every,
    Alone a_file_that_is_replaced_violates_the_freeze,
    Alone the_command_itself_is_refused,
    Alone whatever_the_command_has_started_is_refused,
}

/// An actor with a directory of its own.
pub(crate) fn actor(place: &Place, way: &str) -> Actor {
    // A name that mount(8) takes among its options.
    let name = way.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    actor_named(&name, place, way)
}

/// An actor with a directory of this name.
pub(super) fn actor_named(name: &str, place: &Place, way: &str) -> Actor {
    let place = Place {
        directory: place.directory.join(name),
        outside: place.outside.join(name),
        ..place.clone()
    };
    for directory in [&place.directory, &place.outside] {
        std::fs::create_dir_all(directory).expect("a directory for the actor");
    }
    let actor = Actor::start(way, &place).expect("a way that every filesystem has");
    rustix::fs::sync();
    actor
}

/// A freeze of an actor's files.
pub(super) fn freeze(actors: &[&Actor], options: &[&str]) -> Freeze {
    let files = actors.iter().flat_map(|actor| &actor.files);
    let mut words: Vec<&str> = files.map(|file| file.path.as_str()).collect();
    words.extend(options);
    let mut freeze = Freeze::start(&words);
    freeze.frozen();
    freeze
}

/// What comes of an order; nobody may be undecided.
pub(crate) fn outcome(actor: &mut Actor) -> Outcome {
    actor.order();
    let mut outcome = Outcome::Waits;
    process::wait_for("an outcome", || {
        outcome = actor.outcome();
        outcome != Outcome::Waits
    });
    outcome
}

pub(crate) fn terminate(freeze: Freeze) -> Ended {
    freeze.signal(Signal::TERM);
    freeze.end()
}

/// The records of a type.
pub(super) fn records<'a>(ended: &'a Ended, kind: &str) -> Vec<&'a Value> {
    let lines = ended.lines.iter();
    lines.filter(|line| line["type"] == kind).collect()
}

fn a_writer_gets_the_errno_that_was_asked_for(place: &Place) {
    let mut writer = actor(place, "pwrite");
    writer.look();
    let freeze = freeze(&[&writer], &["--deny=EROFS"]);
    let outcome = outcome(&mut writer);
    let Outcome::Refused(error) = &outcome else {
        panic!("{outcome:?}");
    };
    assert!(error.contains("code: 30"), "{error}");
    let ended = terminate(freeze).expect(0);
    let refused = records(&ended, "refused");
    assert!(!refused.is_empty(), "{ended:?}");
    assert_eq!(writer.look(), [false]);
    assert_eq!(self::outcome(&mut writer), Outcome::Made);
}

fn with_mmap_kill_a_store_kills_its_process(place: &Place) {
    let mut store = actor(place, "store through an old mapping");
    store.look();
    let freeze = freeze(&[&store], &["--mmap", "kill"]);
    let outcome = outcome(&mut store);
    assert_eq!(outcome, Outcome::Refused("the actor has ended".to_owned()));
    assert_eq!(store.look(), [false], "its store was made");
    let ended = terminate(freeze).expect(0);
    assert_eq!(records(&ended, "killed").len(), 1, "{ended:?}");
    assert_eq!(
        ended.lines.last().expect("a report")["killed"],
        1,
        "{ended:?}"
    );
}

fn with_mmap_report_a_store_violates_the_freeze(place: &Place) {
    let mut store = actor(place, "store through an old mapping");
    store.look();
    let freeze = freeze(&[&store], &["--mmap", "report"]);
    assert_eq!(outcome(&mut store), Outcome::Made);
    assert_eq!(store.look(), [true]);
    let ended = terminate(freeze).expect(17);
    let violations = records(&ended, "violated");
    let [violation, ..] = &violations[..] else {
        panic!("{ended:?}");
    };
    assert_eq!(violation["path"], *store.files[0].path, "{violation}");
    assert!(ended.stderr.contains("VIOLATED"), "{ended:?}");
}

/// So that not even the file's times move, which programs look at that make backups.
fn whoever_maps_a_file_is_stopped_beforehand(place: &Place) {
    use std::os::unix::fs::MetadataExt;
    let mut store = actor(place, "store through an old mapping");
    let mut writer = actor(place, "pwrite");
    let times = || {
        let file = std::fs::metadata(&store.files[0].path).expect("stat");
        (file.mtime_nsec(), file.ctime_nsec())
    };
    let before = times();
    let freeze = freeze(&[&store, &writer], &[]);
    assert_eq!(store.outcome(), Outcome::Held);
    assert_eq!(writer.outcome(), Outcome::Waits, "it maps nothing");
    assert_eq!(times(), before);
    terminate(freeze).expect(0);
    assert_eq!(outcome(&mut store), Outcome::Made);
    assert_eq!(outcome(&mut writer), Outcome::Made);
}

fn with_mmap_hold_a_process_is_stopped_at_its_first_store(place: &Place) {
    let mut store = actor(place, "store through an old mapping");
    store.look();
    let mut freeze = freeze(&[&store], &["--mmap", "hold"]);
    assert_eq!(store.outcome(), Outcome::Waits, "it stores nothing");
    assert_eq!(outcome(&mut store), Outcome::Held);
    let held = freeze.hear("who is held", |line| line["type"] == "held");
    assert_eq!(held["op"], "mmap", "{held}");
    assert_eq!(store.look(), [false]);
    terminate(freeze).expect(0);
    process::wait_for("it stores", || store.outcome() == Outcome::Made);
}

fn a_record_tells_of_each_writer(place: &Place) {
    let mut writer = actor(place, "pwrite");
    let mut freeze = freeze(&[&writer], &["--hold"]);
    assert_eq!(outcome(&mut writer), Outcome::Held);
    let held = freeze.hear("who is held", |line| line["type"] == "held");
    assert_eq!(held["path"], *writer.files[0].path, "{held}");
    assert_eq!(held["op"], "write", "{held}");
    assert_eq!(held["pid"], writer.pid(), "{held}");
    // Time to be held for.
    thread::sleep(Duration::from_millis(50));
    let ended = terminate(freeze).expect(0);
    let last = ended.lines.last().expect("a report");
    assert_eq!(
        (&last["type"], &last["state"]),
        (&"freeze".into(), &"thawed".into()),
        "{last}"
    );
    assert_eq!(last["violations"]["count"], 0, "{last}");
    process::wait_for("the writer goes on", || writer.outcome() == Outcome::Made);
}

/// CMD may have opened the path before, or after.
fn a_file_that_is_replaced_violates_the_freeze(place: &Place) {
    let mut writer = actor(place, "pwrite");
    let path = writer.files[0].path.clone();
    let new = place.file("new");
    std::fs::write(&new, "new").expect("a new file");
    let freeze = freeze(&[&writer], &["--hold"]);
    std::fs::rename(&new, &path).expect("rename");
    let ended = terminate(freeze).expect(17);
    let violations = records(&ended, "violated");
    assert!(
        violations
            .iter()
            .any(|violation| violation["path"] == *path),
        "{ended:?}"
    );
    assert_eq!(outcome(&mut writer), Outcome::Made);
}

/// It cannot wait for itself.
fn the_command_itself_is_refused(place: &Place) {
    let writer = actor(place, "pwrite");
    let path = &writer.files[0].path;
    let before = std::fs::read(path).expect("read");
    let script = format!("echo x >> '{path}'");
    for mode in ["--hold", "--deny"] {
        let ended = Freeze::start(&[path, mode, "--", "sh", "-c", &script]).end();
        let ended = ended.expect(1);
        assert!(ended.stderr.contains("busy"), "{ended:?}");
    }
    assert_eq!(std::fs::read(path).expect("read"), before);
}

/// However many generations later, and whether or not its parent has ended.
fn whatever_the_command_has_started_is_refused(place: &Place) {
    let writer = actor(place, "pwrite");
    let path = &writer.files[0].path;
    let deep =
        r#"if [ "$1" -gt 0 ]; then sh -c "$2" sh $(($1 - 1)) "$2" "$3"; exit; fi; echo x >> "$3""#;
    let orphan = r#"(sh -c 'sleep 0.3; echo x >> "$0" 2> "$0.said"; touch "$0.done"' "$3" &)
        while [ ! -e "$3.done" ]; do sleep 0.1; done; grep -q busy "$3.said""#;
    for (script, code) in [(deep, 1), (orphan, 0)] {
        let words = [
            "--timeout",
            "20s",
            "--",
            "sh",
            "-c",
            script,
            "sh",
            "30",
            script,
            path,
        ];
        let words = [&[path.as_str()][..], &words].concat();
        let ended = Freeze::start(&words).end().expect(code);
        assert!(records(&ended, "held").is_empty(), "{ended:?}");
        assert!(!records(&ended, "refused").is_empty(), "{ended:?}");
    }
}
