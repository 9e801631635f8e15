//! Whatever names, paths and processes look like, and however short they live: each period has one event,
//! it is one line of JSON, and nothing reaches a terminal raw.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;

use crate::{
    harness::{Check, Place},
    tests,
    trace::{about, path_of, paths_of},
    workload::HOSTILE_NAME,
};

/// Each costs an fsync, and in each the walk may meet a rename.
const PERIODS_UNDER_RENAMES: u64 = 200;

tests! {
    Shared names_of_255_hostile_bytes_come_through,
    Shared a_path_deeper_than_the_walk_is_cut_and_still_reported,
    Shared a_path_longer_than_the_kernel_takes_is_cut_and_still_reported,
    Shared files_renamed_meanwhile_have_one_of_their_names,
    Shared a_file_is_named_after_its_directory_has_gone,
    Shared a_file_that_never_had_a_name_is_reported_as_deleted,
    Shared processes_that_die_at_once_are_named,
    Alone nothing_raw_reaches_a_terminal on One,
}

fn names_of_255_hostile_bytes_come_through(place: &Place) -> Check {
    let fill = |pattern: &[u8]| -> Vec<u8> { pattern.iter().copied().cycle().take(255).collect() };
    let controls: Vec<u8> = (1..0x20).chain([0x7f]).collect();
    let names: Vec<Vec<u8>> = vec![
        fill(&controls),
        fill(b"\n"),
        fill(b"\x1b[2J\x1b]0;x\x07"),
        // Invalid in each way: lone continuation, overlong, surrogate, beyond Unicode, cut short at the end.
        fill(b"\x80\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80\xff\xe2\x82"),
        // C1, bidirectional controls, zero width.
        fill("\u{9b}\u{202e}\u{200b}".as_bytes()),
        fill(b"\"\\"),
        fill(b"\\u0000\",\"path\":\""),
    ];
    let directory = place.directory.clone();
    Box::new(move |trace| {
        let paths: Vec<PathBuf> = names
            .iter()
            .map(|name| directory.join(OsStr::from_bytes(name)))
            .collect();
        for path in &paths {
            fs::write(path, "x").expect("a new file");
        }
        let events = trace.events();
        assert_eq!(paths_of(&events), paths);
        for (event, path) in events.iter().zip(&paths) {
            assert_eq!(event["path_raw"].is_string(), path.to_str().is_none());
        }
    })
}

/// Makes directories in each other, more than a path can name at once, and opens a new file in the last.
fn nest(directory: &Path, name: &str, depth: usize) -> File {
    let mut deepest: OwnedFd = File::open(directory).expect("the directory").into();
    for _ in 0..depth {
        rustix::fs::mkdirat(&deepest, name, Mode::RWXU).expect("mkdir");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        deepest = rustix::fs::openat(&deepest, name, flags, Mode::empty()).expect("open");
    }
    let flags = OFlags::CREATE | OFlags::RDWR;
    rustix::fs::openat(&deepest, "leaf", flags, Mode::RWXU)
        .expect("a new file")
        .into()
}

/// The event of a cut path is right but for the beginning of the path.
fn assert_cut(event: &Value, whole: &Path) {
    assert_eq!(event["path_cut"], true, "{event}");
    assert_eq!(event["pre"], true, "{event}");
    let path = path_of(event);
    assert!(path.is_relative(), "{}", path.display());
    assert!(whole.ends_with(&path), "{}", path.display());
}

fn a_path_deeper_than_the_walk_is_cut_and_still_reported(place: &Place) -> Check {
    let depth = 600;
    let mut file = nest(&place.directory, "d", depth);
    let whole = place.directory.join("d/".repeat(depth) + "leaf");
    Box::new(move |trace| {
        for generation in 1..=2 {
            file.write_all(b"x").expect("writing");
            file.sync_all().expect("fsync");
            let events = trace.events();
            let [event] = &events[..] else {
                panic!("{events:?}")
            };
            assert_cut(event, &whole);
            // Every step of the walk went into a component: the directory's mount was not reached. The first few
            // may be walked in another way, and come on top.
            let components = path_of(event).components().count();
            assert!((512..=520).contains(&components), "{components}");
            assert_eq!(event["generation"], generation);
        }
    })
}

fn a_path_longer_than_the_kernel_takes_is_cut_and_still_reported(place: &Place) -> Check {
    let (name, depth) = ("n".repeat(255), 20);
    let mut file = nest(&place.directory, &name, depth);
    let whole = place.directory.join((name + "/").repeat(depth) + "leaf");
    Box::new(move |trace| {
        file.write_all(b"x").expect("writing");
        let events = trace.events();
        let [event] = &events[..] else {
            panic!("{events:?}")
        };
        assert_cut(event, &whole);
        // The leaf, and as many names of 255 bytes as fit beside it.
        assert_eq!(path_of(event).components().count(), 1 + 16);
    })
}

fn files_renamed_meanwhile_have_one_of_their_names(place: &Place) -> Check {
    // Short names lie within the kernel's dentry, and a rename overwrites them there; long ones do not.
    let names = [
        "a".repeat(28),
        "b".repeat(20),
        "c".to_owned(),
        "d".repeat(200),
    ];
    let paths = names.map(|name| place.file(&name));
    let mut file = File::create(&paths[0]).expect("a new file");
    Box::new(move |trace| {
        let renamer = Running::start("rename-for-ever", &paths);
        for _ in 0..PERIODS_UNDER_RENAMES {
            file.write_all(b"x").expect("writing");
            file.sync_data().expect("fdatasync");
        }
        drop(renamer);
        let events = trace.events();
        let generations: Vec<u64> = events
            .iter()
            .map(|event| event["generation"].as_u64().expect("a number"))
            .collect();
        let wanted: Vec<u64> = (1..=PERIODS_UNDER_RENAMES).collect();
        assert_eq!(generations, wanted);
        // Where a CPU is taken away in the middle of a rename, the walk gives up: better no name than a
        // wrong one.
        let (given_up, named): (Vec<_>, Vec<_>) = events
            .iter()
            .partition(|event| event["path_cut"] == true && event["path"] == "");
        assert!(given_up.len() < events.len() / 10, "{given_up:?}");
        let seen: HashSet<PathBuf> = named.into_iter().map(path_of).collect();
        assert!(
            seen.iter().all(|path| paths.contains(path)),
            "names that never were: {seen:?}"
        );
        assert!(seen.len() > 1, "nothing was renamed: {seen:?}");
    })
}

fn a_file_is_named_after_its_directory_has_gone(place: &Place) -> Check {
    let directory = place.file("directory");
    fs::create_dir(&directory).expect("mkdir");
    let path = directory.join("file");
    let mut file = File::create(&path).expect("a new file");
    Box::new(move |trace| {
        fs::remove_dir_all(&directory).expect("removing");
        file.write_all(b"x").expect("writing");
        let events = trace.events();
        let [event] = about(&events, &path)[..] else {
            panic!("{events:?}")
        };
        assert_eq!(event["deleted"], true);
    })
}

fn a_file_that_never_had_a_name_is_reported_as_deleted(place: &Place) -> Check {
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let mut file: File = rustix::fs::open(&place.directory, flags, Mode::RWXU)
        .expect("an unnamed file")
        .into();
    let directory = place.directory.clone();
    Box::new(move |trace| {
        file.write_all(b"x").expect("writing");
        let events = trace.events();
        let [event] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(event["deleted"], true, "{event}");
        // The kernel makes up a name.
        assert!(path_of(event).starts_with(&directory), "{event}");
    })
}

fn processes_that_die_at_once_are_named(place: &Place) -> Check {
    let place = place.clone();
    Box::new(move |trace| {
        for (word, op, signal) in [
            ("write-and-die", "write", Some(9)),
            ("store-and-exit", "mmap", None),
        ] {
            let path = place.file(word);
            fs::write(&path, [0; 4096]).expect("a new file");
            File::open(&path)
                .and_then(|file| file.sync_all())
                .expect("fsync");
            let _ = trace.events();
            let mut child = Running::start(word, std::slice::from_ref(&path));
            let status = child.0.wait().expect("a child");
            assert_eq!(status.signal(), signal, "{status}");
            let events = trace.events();
            let [event] = about(&events, &path)[..] else {
                panic!("{events:?}")
            };
            assert_eq!(event["op"], op, "{event}");
            assert_eq!(event["pre"], true, "{event}");
            assert_eq!(event["pid"], child.0.id(), "{event}");
            let comm = event["comm_raw"].as_str().expect("it is not UTF-8");
            assert_eq!(STANDARD.decode(comm).expect("base64"), HOSTILE_NAME);
        }
    })
}

fn nothing_raw_reaches_a_terminal(place: &Place) {
    let directory = place
        .directory
        .join(OsStr::from_bytes(b"\x1b[31m\n\xff\xc2\x9b"));
    fs::create_dir(&directory).expect("mkdir");
    let shown = on_a_terminal(
        Command::new("premod")
            .args(["-v", "trace"])
            .arg(&directory)
            .args(["--", "premod-vm-test", "write-hostile-names"])
            .current_dir(&directory),
    );
    let text = String::from_utf8(shown).expect("valid UTF-8");
    // The terminal itself makes CR LF of each newline.
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    for line in &lines {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.contains(['\u{202e}', '\u{200b}']), "{line:?}");
    }
    let printed = format!(
        "{}/\\x1b[31m\\x0a\\xff\\xc2\\x9b",
        place.directory.display()
    );
    assert!(
        text.contains(&format!("premod: tracing {printed}\r\n")),
        "{text}"
    );
    let rows: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.starts_with("write "))
        .collect();
    assert_eq!(rows.len(), crate::workload::HOSTILE_FILES.len(), "{text}");
    for row in rows {
        assert!(
            row.contains(r#" a\x0ab\x1b[7m"\ "#) && row.contains(&printed),
            "{row}"
        );
    }
}

/// Runs a program on a terminal of its own, and returns what the terminal would show.
fn on_a_terminal(command: &mut Command) -> Vec<u8> {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours)
        .and_then(|()| unlockpt(&ours))
        .expect("its other side");
    let name = ptsname(&ours, Vec::new()).expect("its name");
    // Not ours: a terminal that hangs up would end this process.
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let theirs = rustix::fs::open(&*name, flags, Mode::empty()).expect("its other side");
    let copy = || Stdio::from(theirs.try_clone().expect("a descriptor"));
    let mut child = command
        .stdin(copy())
        .stdout(copy())
        .stderr(copy())
        .spawn()
        .expect("premod can be run");
    // The command keeps copies of the descriptors.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    drop(theirs);
    let mut shown = Vec::new();
    // Once nobody has the other side open any more, reading fails with EIO.
    let _ = File::from(ours).read_to_end(&mut shown);
    let status = child.wait().expect("a child");
    assert!(
        status.success(),
        "{status}: {}",
        String::from_utf8_lossy(&shown)
    );
    shown
}

/// A program of `workload` in a process of its own; killed when dropped.
struct Running(Child);

impl Running {
    fn start(word: &str, arguments: &[PathBuf]) -> Self {
        let child = Command::new("/proc/self/exe")
            .arg(word)
            .args(arguments)
            .spawn();
        Self(child.expect("this program can be run"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
