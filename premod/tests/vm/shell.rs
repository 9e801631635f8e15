//! What a shell and its user expect of every program: signals, terminals, pipes, limits, files of their own.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use rustix::{
    pipe::pipe,
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::{
    freeze::{
        policies::{actor, outcome},
        process::{signal, wait, wait_for},
    },
    harness::Place,
    tests,
};

tests! {
    on One;
    Alone a_reader_who_stands_still_keeps_no_trace_from_its_end,
    Alone a_reader_who_stands_still_keeps_no_freeze_from_its_end,
    Alone a_terminal_that_stands_still_keeps_nothing_from_its_end,
    Alone a_hangup_stays_ignored_under_nohup_and_all_else_for_the_command,
    Alone each_ctrl_c_reaches_the_command_once,
    Alone many_files_need_no_higher_limit,
    Alone what_an_output_held_stays_until_all_else_is_right,
    Alone a_command_that_outlives_the_trace_is_not_left_without_a_word,
    Alone a_violation_is_told_to_whoever_comes_after_the_timeout,
}

fn premod(arguments: &[&str]) -> Command {
    let mut command = Command::new("premod");
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    premod(arguments).output().expect("premod can be run")
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Waits for a line on stderr with these words in it, and returns what comes after.
fn hear(child: &mut Child, words: &str) -> BufReader<impl Read + use<>> {
    let mut stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        let read = stderr.read_line(&mut line).expect("stderr");
        assert!(read > 0, "premod has ended without {words:?}");
    }
    stderr
}

/// How it ended, and what it said last.
fn end(mut child: Child, mut stderr: impl Read) -> (i32, String) {
    let status = wait(&mut child);
    let mut said = String::new();
    stderr.read_to_string(&mut said).expect("UTF-8");
    (status.code().expect("no signal"), said)
}

/// The number that stands before these words.
fn number_before(said: &str, words: &str) -> usize {
    let before = &said[..said.find(words).unwrap_or_else(|| panic!("{said}"))];
    let number = before.rsplit(' ').next().expect("a word");
    number.parse().unwrap_or_else(|_| panic!("{said}"))
}

fn a_reader_who_stands_still_keeps_no_trace_from_its_end(place: &Place) {
    let here = plain(&place.directory);
    let many = |round: &str| {
        for number in 0..600 {
            let name =
                format!("{round}-a-name-that-makes-each-line-long-enough-to-fill-it-{number}");
            fs::write(place.file(&name), "x").expect("writing");
        }
    };
    for (round, options) in [("signal", &[][..]), ("time", &["-d", "8"])] {
        let arguments = [&["trace", "--json", here][..], options].concat();
        let (reader, writer) = pipe().expect("a pipe");
        let mut child = premod(&arguments).stdout(writer).spawn().expect("premod");
        let stderr = hear(&mut child, "premod: tracing ");
        many(round);
        if round == "signal" {
            // Until it has written what there is room for.
            sleep(Duration::from_secs(2));
            signal(child.id(), Signal::TERM);
        }
        let (code, said) = end(child, stderr);
        assert_eq!(code, 16, "{said}");
        let unwritten = number_before(
            &said,
            " lines not written: whoever reads stdout stood still",
        );
        let events = number_before(&said, " events, ");
        let mut written = String::new();
        File::from(reader)
            .read_to_string(&mut written)
            .expect("UTF-8");
        assert!(written.ends_with("}\n"), "whole lines");
        // The summary is one of them.
        assert_eq!(written.lines().count() + unwritten, events + 1, "{said}");
    }
}

/// A pipe that is full, and is not read.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("ioctl");
    while rustix::io::write(&writer, &[b'\n'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("ioctl");
    (reader, writer)
}

fn a_reader_who_stands_still_keeps_no_freeze_from_its_end(place: &Place) {
    let mut writer = actor(place, "pwrite");
    let path = writer.files[0].path.clone();
    for end_by in ["time", "signal", "thaw"] {
        let (_reader, full) = full_pipe();
        let time = if end_by == "time" { "5s" } else { "60s" };
        let arguments = ["freeze", "--json", "--timeout", time, &path];
        let mut child = premod(&arguments).stdout(full).spawn().expect("premod");
        let stderr = hear(&mut child, "premod: frozen: ");
        outcome(&mut writer);
        match end_by {
            "signal" => signal(child.id(), Signal::INT),
            "thaw" => assert!(run(&["thaw", &path]).status.success()),
            _ => {}
        }
        let (code, said) = end(child, stderr);
        assert_eq!(code, 16, "{said}");
        assert!(said.contains(" lines not written: "), "{said}");
        wait_for("the writer goes on", || {
            writer.outcome() == crate::freeze::actor::Outcome::Made
        });
        writer.look();
    }
}

/// A terminal, and what a program on it sees of it.
pub(crate) fn terminal() -> (OwnedFd, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master)
        .and_then(|()| unlockpt(&master))
        .expect("a terminal");
    let name = ptsname(&master, Vec::new()).expect("its name");
    let slave = File::options()
        .read(true)
        .write(true)
        // It must not become the terminal of the tests themselves.
        .custom_flags(libc::O_NOCTTY)
        .open(name.to_str().expect("ASCII"))
        .expect("a terminal");
    (master, slave)
}

/// In a child: it leads a session, whose terminal is the one on its stdin.
pub(crate) fn lead() -> io::Result<()> {
    rustix::process::setsid()?;
    // SAFETY: numbers only.
    match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn a_terminal_that_stands_still_keeps_nothing_from_its_end(place: &Place) {
    let here = plain(&place.directory);
    let db = place.file("db");
    fs::write(&db, "x").expect("writing");
    let log = place.outside.join("log");
    for arguments in [
        ["trace", "--json", "-o", plain(&log), "-d", "1s", here],
        [
            "freeze",
            "--json",
            "-o",
            plain(&log),
            "--timeout",
            "3s",
            plain(&db),
        ],
    ] {
        let (_master, slave) = terminal();
        // As Ctrl-S does it.
        // SAFETY: a number and an open descriptor.
        assert_eq!(unsafe { libc::tcflow(slave.as_raw_fd(), libc::TCOOFF) }, 0);
        let mut child = premod(&arguments).stderr(slave).spawn().expect("premod");
        let status = wait(&mut child);
        assert_eq!(
            status.code(),
            Some(if arguments[0] == "trace" { 0 } else { 20 })
        );
        let lines = fs::read_to_string(&log).expect("the log");
        assert!(
            lines.contains("\"summary\"") || lines.contains("\"thawed\""),
            "{lines}"
        );
    }
}

/// Starts with these signals ignored, as nohup does and a shell for what runs in its background.
fn ignoring<'a>(command: &'a mut Command, signals: &'static [i32]) -> &'a mut Command {
    let ignore = move || {
        for &signal in signals {
            // SAFETY: ignoring a signal needs no handler.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls and touches no memory of the parent.
    unsafe { command.pre_exec(ignore) }
}

fn a_hangup_stays_ignored_under_nohup_and_all_else_for_the_command(place: &Place) {
    let here = plain(&place.directory);
    let signals = &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGCHLD];
    let mut command = premod(&["trace", "--json", here]);
    let mut child = ignoring(&mut command, signals).spawn().expect("premod");
    let stderr = hear(&mut child, "premod: tracing ");
    signal(child.id(), Signal::HUP);
    sleep(Duration::from_secs(1));
    fs::write(place.file("afterwards"), "x").expect("writing");
    sleep(Duration::from_secs(1));
    // As whoever has put it into the background of a script ends it.
    signal(child.id(), Signal::INT);
    let (code, said) = end(child, stderr);
    assert_eq!((code, number_before(&said, " events, ")), (0, 1), "{said}");

    let log = plain(&place.outside.join("log")).to_owned();
    let traced = |command: &[&str]| {
        let arguments = [&["trace", "-o", &log, here, "--"][..], command].concat();
        let mut command = premod(&arguments);
        ignoring(&mut command, signals).output().expect("premod")
    };
    let output = traced(&["sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    // Not by way of a shell, which has its own use for SIGCHLD.
    let output = traced(&["cat", "/proc/self/status"]);
    assert!(output.status.success(), "{output:?}");
    let ignored = text(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:\t"))
        .expect("a set of signals");
    let ignored = u64::from_str_radix(ignored, 16).expect("hexadecimal");
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGCHLD] {
        assert_ne!(ignored & 1 << (signal - 1), 0, "{signal} in {ignored:x}");
    }
}

fn each_ctrl_c_reaches_the_command_once(place: &Place) {
    let (ready, times) = (place.file("ready"), place.outside.join("times"));
    let db = place.file("db");
    fs::write(&db, "x").expect("writing");
    let script = format!(
        "trap 'echo interrupted >> {times}' INT; trap 'exit 9' TERM; echo > {ready}; while :; do sleep 0.1; done",
        times = plain(&times),
        ready = plain(&ready),
    );
    let log = plain(&place.outside.join("log")).to_owned();
    for arguments in [
        &["trace", "--json", "-o", &log, plain(&place.directory)][..],
        &["freeze", plain(&place.outside.join("db"))],
    ] {
        fs::write(place.outside.join("db"), "x").expect("writing");
        for path in [&ready, &times] {
            let _ = fs::remove_file(path);
        }
        let (mut master, slave) = {
            let (master, slave) = terminal();
            (File::from(master), slave)
        };
        let arguments = [arguments, &["--", "sh", "-c", &script]].concat();
        let mut command = premod(&arguments);
        command.stdin(slave).stdout(Stdio::null());
        // SAFETY: the closure makes two system calls and touches no memory of the parent.
        unsafe { command.pre_exec(lead) };
        let mut child = command.spawn().expect("premod");
        wait_for("the command", || ready.exists());
        let count = || {
            fs::read_to_string(&times)
                .unwrap_or_default()
                .lines()
                .count()
        };
        for expected in 1..=2 {
            master.write_all(b"\x03").expect("a key");
            wait_for("an interrupt", || count() >= expected);
            sleep(Duration::from_secs(1));
            assert_eq!(count(), expected);
        }
        // The same to the group, by another process.
        let group = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("an id");
        rustix::process::kill_process_group(group, Signal::INT).expect("the group");
        wait_for("an interrupt", || count() >= 3);
        sleep(Duration::from_secs(1));
        assert_eq!(count(), 3);
        // What comes to premod alone is passed on.
        signal(child.id(), Signal::INT);
        wait_for("an interrupt", || count() >= 4);
        rustix::process::kill_process_group(group, Signal::TERM).expect("the group");
        assert_eq!(wait(&mut child).code(), Some(9));
        assert_eq!(count(), 4);
    }
}

fn many_files_need_no_higher_limit(place: &Place) {
    let names: Vec<PathBuf> = (0..1100)
        .map(|number| place.file(&format!("f{number}")))
        .collect();
    for name in &names {
        fs::write(name, "x").expect("writing");
    }
    rustix::fs::sync();
    let list: Vec<u8> = names
        .iter()
        .flat_map(|name| [plain(name).as_bytes(), b"\0"].concat())
        .collect();
    let list_file = place.outside.join("list");
    fs::write(&list_file, &list).expect("the list");
    let log = plain(&place.outside.join("log")).to_owned();
    // CMD has the limit that premod was started with.
    let limited = |limits: &str, arguments: &[&str]| {
        let script = format!("{limits}; exec premod \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).args(arguments);
        command.stdin(File::open(&list_file).expect("the list"));
        command.output().expect("premod can be run")
    };
    let tell = ["--", "sh", "-c", "ulimit -S -n"];
    for arguments in [
        &["freeze", "-0", "--files-from", "-"][..],
        &[
            "trace",
            "-o",
            &log,
            "--null",
            "--files-from",
            plain(&list_file),
        ],
    ] {
        let output = limited("ulimit -S -n 600", &[arguments, &tell].concat());
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stdout), "600\n");
        let output = limited("ulimit -n 600", &[arguments, &tell].concat());
        assert_eq!(output.status.code(), Some(21), "{output:?}");
        let said = text(&output.stderr);
        assert!(
            said.contains("1100 files") && said.contains("1612"),
            "{said}"
        );
    }
    // The process behind reads the list.
    let output = limited(":", &["freeze", "-f", "-0", "--files-from", "-"]);
    assert!(output.status.success(), "{output:?}");
    let output = run(&["freeze", "-u", plain(&names[1000])]);
    assert!(output.status.success(), "{output:?}");
    let output = limited(":", &["trace", "--files-from", "-"]);
    assert_eq!(output.status.code(), Some(14), "{output:?}");
    assert!(text(&output.stderr).contains("--null"), "{output:?}");
}

fn what_an_output_held_stays_until_all_else_is_right(place: &Place) {
    let here = plain(&place.directory);
    let old = place.outside.join("old");
    let db = place.file("db");
    for path in [&old, &db] {
        fs::write(path, "precious").expect("writing");
    }
    let (old, db) = (plain(&old), plain(&db));
    for (code, arguments) in [
        (14, &["trace", "-o", old, "/no/such/file"][..]),
        (15, &["trace", "-o", old, "/tmp"]),
        (127, &["trace", "-o", old, here, "--", "/no/such/program"]),
        (2, &["trace", "-o", db, db]),
        (2, &["trace", "-o", old, "--files-from", old]),
        (14, &["freeze", "--json", "-o", old, "/no/such/file"]),
        (
            127,
            &["freeze", "--json", "-o", old, db, "--", "no-such-program"],
        ),
        (2, &["freeze", "--json", "-o", db, db, "--", "true"]),
    ] {
        let output = run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        for path in [old, db] {
            assert_eq!(
                fs::read_to_string(path).expect("it is there"),
                "precious",
                "{arguments:?}"
            );
        }
    }
    let list = place.outside.join("list");
    fs::write(&list, db).expect("writing");
    let output = run(&[
        "freeze",
        "--json",
        "-o",
        plain(&list),
        "--files-from",
        plain(&list),
    ]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(fs::read_to_string(&list).expect("the list"), db);
    let output = run(&["trace", "--json", "-o", old, here, "--", "true"]);
    assert!(output.status.success(), "{output:?}");
    let lines = fs::read_to_string(old).expect("the log");
    assert!(
        lines.starts_with('{') && lines.contains("\"summary\""),
        "{lines}"
    );
    let new = place.outside.join("new");
    let output = run(&["freeze", "--json", "-o", plain(&new), db, "--", "true"]);
    assert!(output.status.success(), "{output:?}");
    let mode = fs::metadata(&new).expect("the log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

fn a_command_that_outlives_the_trace_is_not_left_without_a_word(place: &Place) {
    let here = plain(&place.directory);
    let outlived = |options: &[&str], script: &str| {
        let command = ["--", "sh", "-c", script];
        let arguments = [
            &["trace", "--json", "-d", "500ms"],
            options,
            &[here],
            &command,
        ]
        .concat();
        let output = run(&arguments);
        let said = text(&output.stderr).to_owned();
        assert!(
            said.contains("premod: the trace is over before CMD ("),
            "{said}"
        );
        (output.status.code().expect("no signal"), said)
    };
    let (code, said) = outlived(&[], "sleep 4; exit 7");
    assert_eq!(code, 7);
    assert!(said.contains("premod waits for it"), "{said}");
    let (code, _) = outlived(
        &["--signal", "INT"],
        "trap 'exit 8' INT; while :; do sleep 0.1; done",
    );
    assert_eq!(code, 8);
    let (code, _) = outlived(&["-k", "1s"], "trap '' TERM; while :; do sleep 0.1; done");
    assert_eq!(code, 128 + 9);
}

fn a_violation_is_told_to_whoever_comes_after_the_timeout(place: &Place) {
    let mut store = actor(place, "store through an old mapping");
    let path = store.files[0].path.clone();
    let output = run(&["freeze", "-f", "--mmap", "report", "--timeout", "6s", &path]);
    assert!(output.status.success(), "{output:?}");
    outcome(&mut store);
    wait_for("the end of the freeze", || {
        run(&["status"]).stdout.is_empty()
    });
    let output = run(&["freeze", "-u", &path]);
    assert_eq!(output.status.code(), Some(17), "{output:?}");
    assert!(text(&output.stderr).contains(&path), "{output:?}");
    assert_eq!(run(&["freeze", "-u", &path]).status.code(), Some(20));
}
