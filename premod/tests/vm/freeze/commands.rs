//! The command line: freeze and return, thaw, status, dry run, output.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use super::{
    actor::Outcome,
    policies::{actor, freeze, outcome},
    process,
};
use crate::{harness::Place, tests};

tests! {
    on One;
    Alone freeze_and_thaw_as_fsfreeze_does,
    Alone thaw_ends_another_freeze,
    Alone status_tells_who_is_held,
    Alone what_is_not_frozen_cannot_be_thawed,
    Alone a_dry_run_tells_and_freezes_nothing,
    Alone the_timeout_ends_a_freeze_without_a_command,
    Alone output_of_the_command_stays_its_own,
    Alone a_wrong_option_is_named,
    Alone many_freezes_at_a_time,
}

/// Runs premod to its end.
fn premod(arguments: &[&str]) -> Output {
    Command::new("premod")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("premod can be run")
}

/// The same, which has to end with this status.
fn expect(code: i32, arguments: &[&str]) -> Output {
    let output = premod(arguments);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {output:?}"
    );
    output
}

fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).expect("UTF-8");
    let line = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
    text.lines().map(line).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn status() -> Vec<Value> {
    let all = lines(&expect(0, &["status", "--json"]));
    assert!(
        all.iter()
            .all(|set| set["schema"] == 1 && set["type"] == "freeze"),
        "{all:?}"
    );
    all
}

fn freeze_and_thaw_as_fsfreeze_does(place: &Place) {
    let mut writer = actor(place, "pwrite");
    let path = writer.files[0].path.clone();
    for thaw in [&["freeze", "-u"][..], &["thaw"], &["unfreeze"]] {
        writer.look();
        expect(0, &["freeze", "-f", &path]);
        assert_eq!(outcome(&mut writer), Outcome::Held);
        assert_eq!(writer.look(), [false]);
        let sets = status();
        assert_eq!(sets.len(), 1, "{sets:?}");
        assert_eq!(sets[0]["files"][0]["path"], *path, "{sets:?}");
        expect(0, &[thaw, &[&path]].concat());
        process::wait_for("the writer goes on", || writer.outcome() == Outcome::Made);
        assert_eq!(writer.look(), [true]);
        assert!(status().is_empty());
    }
}

fn thaw_ends_another_freeze(place: &Place) {
    let writer = actor(place, "pwrite");
    let path = writer.files[0].path.as_str();
    let first = freeze(&[&writer], &["--hold"]);
    let output = expect(0, &["thaw", "--json", path]);
    let sets = lines(&output);
    assert_eq!(sets.len(), 1, "{output:?}");
    assert_eq!(sets[0]["state"], "thawed", "{output:?}");
    first.end().expect(0);
    // CMD has not ended: what it has read is not safe.
    let second = freeze(&[&writer], &["--hold", "--", "sleep", "1"]);
    expect(17, &["thaw", "--all"]);
    let ended = second.end().expect(17);
    assert!(ended.lines.iter().any(|line| line["type"] == "violated"));
}

fn status_tells_who_is_held(place: &Place) {
    let mut writer = actor(place, "pwrite");
    assert!(status().is_empty(), "nothing is frozen");
    let other = freeze(&[&writer], &["--hold", "--timeout", "30s"]);
    assert_eq!(outcome(&mut writer), Outcome::Held);
    let sets = status();
    let [set] = &sets[..] else {
        panic!("not one set: {sets:?}");
    };
    assert_eq!(set["pid"], other.pid(), "{set}");
    assert_eq!(
        (&set["state"], &set["mode"]),
        (&"frozen".into(), &"hold".into())
    );
    assert!(
        set["remaining_ns"].as_u64() <= Some(30_000_000_000),
        "{set}"
    );
    let held = &set["held"][0];
    assert_eq!(held["pid"], writer.pid(), "{set}");
    assert_eq!(held["stopped_by_others"], false, "{set}");
    assert!(held["for_ns"].as_u64() > Some(0), "{set}");
    let table = expect(0, &["status"]);
    for word in [
        "PREMOD",
        "frozen",
        &writer.files[0].path,
        &writer.pid().to_string(),
    ] {
        assert!(text(&table.stdout).contains(word), "no {word}: {table:?}");
    }
    other.signal(rustix::process::Signal::INT);
    other.end().expect(0);
    process::wait_for("the writer goes on", || writer.outcome() == Outcome::Made);
}

fn what_is_not_frozen_cannot_be_thawed(place: &Place) {
    let writer = actor(place, "pwrite");
    let path = writer.files[0].path.as_str();
    let output = expect(20, &["thaw", path]);
    assert!(text(&output.stderr).contains(path), "{output:?}");
    expect(20, &["freeze", "-u", path]);
    expect(14, &["thaw", "/no/such/file"]);
    expect(0, &["thaw", "--all"]);
    expect(0, &["thaw", "--recover"]);
}

fn a_dry_run_tells_and_freezes_nothing(place: &Place) {
    let mut writer = actor(place, "pwrite");
    let store = actor(place, "store through an old mapping");
    let files = [&writer, &store].map(|actor| actor.files[0].path.clone());
    let [first, second] = files.each_ref().map(String::as_str);
    let output = expect(0, &["freeze", "--dry-run", "--json", first, second]);
    let users = lines(&output);
    let user = |pid: u32| {
        let user = users.iter().find(|user| user["pid"] == pid);
        user.unwrap_or_else(|| panic!("nothing about {pid}: {users:?}"))
    };
    let writes = &user(writer.pid())["files"][0];
    assert_eq!(
        (&writes["open_for_writing"], &writes["mapped_writable"]),
        (&true.into(), &false.into()),
        "{writes}"
    );
    let stores = &user(store.pid())["files"][0];
    assert_eq!(stores["mapped_writable"], true, "{stores}");
    let plain = expect(0, &["freeze", "--dry-run", "--deny", first, second]);
    let plain = text(&plain.stdout);
    assert!(plain.contains(first) && plain.contains(second), "{plain}");
    assert_eq!(outcome(&mut writer), Outcome::Made);
}

fn the_timeout_ends_a_freeze_without_a_command(place: &Place) {
    let mut writer = actor(place, "pwrite");
    let freeze = freeze(&[&writer], &["--hold", "--timeout", "6s"]);
    assert_eq!(outcome(&mut writer), Outcome::Held);
    let ended = freeze.end().expect(20);
    process::wait_for("the writer goes on", || writer.outcome() == Outcome::Made);
    assert!(!ended.lines.iter().any(|line| line["type"] == "violated"));
}

fn output_of_the_command_stays_its_own(place: &Place) {
    let writer = actor(place, "pwrite");
    let path = writer.files[0].path.as_str();
    let log = place.file("log");
    let log = log.to_str().expect("a plain path");
    let echo = ["--", "echo", "from the command"];
    let output = expect(0, &[&["freeze", path][..], &echo].concat());
    assert_eq!(text(&output.stdout), "from the command\n");
    let output = expect(0, &[&["freeze", "--json", path][..], &echo].concat());
    assert!(!lines(&output).is_empty());
    assert!(
        text(&output.stderr).contains("from the command\n"),
        "{output:?}"
    );
    let output = expect(
        0,
        &[&["freeze", "--json", "-o", log, path][..], &echo].concat(),
    );
    assert_eq!(text(&output.stdout), "from the command\n");
    let log = std::fs::read_to_string(Path::new(log)).expect("the log");
    assert!(log.contains("\"state\":\"frozen\""), "{log}");
}

fn a_wrong_option_is_named(place: &Place) {
    let file = place.file("data");
    std::fs::write(&file, "x").expect("a new file");
    let path = file.to_str().expect("a plain path");
    for (option, word) in [
        ("--deny=ENOSUCH", "ENOSUCH"),
        ("--timeout=0", "0"),
        ("--timeout=tomorrow", "tomorrow"),
        ("--mmap=perhaps", "perhaps"),
    ] {
        let output = expect(2, &["freeze", option, path]);
        assert!(text(&output.stderr).contains(word), "{output:?}");
    }
    expect(2, &["freeze"]);
    expect(2, &["freeze", "--hold", "--deny", path]);
}

/// More than the kernel takes programs at one of its functions (38), and than fit twice (19).
fn many_freezes_at_a_time(place: &Place) {
    let files: Vec<_> = (0..40)
        .map(|number| place.file(&number.to_string()))
        .collect();
    for file in &files {
        std::fs::write(file, "x").expect("a new file");
        let path = file.to_str().expect("a plain path");
        expect(0, &["freeze", "-f", "--timeout", "10m", path]);
    }
    assert_eq!(status().len(), files.len());
    expect(0, &["thaw", "--all"]);
}
