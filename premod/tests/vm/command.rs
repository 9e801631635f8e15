//! The command line: CMD, limits, filters, output.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::{
    harness::Place,
    tests,
    trace::{path_of, wait},
};

tests! {
    on One;
    Alone with_a_command_premod_traces_while_it_runs_and_ends_with_its_status,
    Alone the_output_of_the_command_does_not_mix_with_the_events,
    Alone the_kernel_side_speaks_at_vv_only,
    Alone limits_end_the_trace,
    Alone filters_choose_events,
    Alone the_table_is_aligned_and_harmless,
    Alone a_closed_pipe_ends_quietly,
}

/// Runs `premod trace` to its end.
fn premod(arguments: &[&str]) -> Output {
    Command::new("premod")
        .arg("trace")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("premod can be run")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn events(output: &Output) -> Vec<Value> {
    text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|value| value["type"] == "first_dirty")
        .collect()
}

fn names(output: &Output) -> Vec<String> {
    let name = |event: &Value| {
        path_of(event)
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    };
    events(output).iter().map(name).collect()
}

fn directory(place: &Place) -> &str {
    place.directory.to_str().expect("a plain path")
}

/// A shell command line that writes `x` to each of these files in the test's directory.
fn write(place: &Place, files: &[&str]) -> String {
    let each = files
        .iter()
        .map(|file| format!("echo x > {}/{file}", directory(place)));
    each.collect::<Vec<_>>().join("; ")
}

fn with_a_command_premod_traces_while_it_runs_and_ends_with_its_status(place: &Place) {
    let here = directory(place);
    let script = format!("{}; exit 7", write(place, &["a", "b"]));
    let output = premod(&["--json", here, "--", "sh", "-c", &script]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(names(&output), ["a", "b"], "{output:?}");
    assert!(
        text(&output.stderr).contains("premod: 2 events, 0 lost in "),
        "{output:?}"
    );

    let output = premod(&["--json", here, "--", "sh", "-c", "kill -KILL $$"]);
    assert_eq!(output.status.code(), Some(128 + 9));
    let output = premod(&["--json", here, "--", "/no/such/program"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(
        text(&output.stderr).contains("premod: cannot run /no/such/program: "),
        "{output:?}"
    );
}

fn the_output_of_the_command_does_not_mix_with_the_events(place: &Place) {
    let here = directory(place);
    let script = format!("echo from the command; {}", write(place, &["a"]));
    let output = premod(&["--json", here, "--", "sh", "-c", &script]);
    assert_eq!(names(&output), ["a"]);
    assert!(
        text(&output.stderr).contains("from the command\n"),
        "{output:?}"
    );

    let log = place.file("log");
    let log = log.to_str().expect("a plain path");
    let script = format!("echo from the command; {}", write(place, &["b"]));
    let output = premod(&["--json", "-o", log, here, "--", "sh", "-c", &script]);
    assert_eq!(text(&output.stdout), "from the command\n");
    assert!(fs::read_to_string(log).expect("the log").contains("/b\""));
}

fn the_kernel_side_speaks_at_vv_only(place: &Place) {
    let here = directory(place);
    let script = write(place, &["a"]);
    let speaks = |verbose: &str| {
        let output = Command::new("premod")
            .args([
                verbose,
                "trace",
                "-o",
                "/dev/null",
                here,
                "--",
                "sh",
                "-c",
                &script,
            ])
            .output()
            .expect("premod can be run");
        rustix::fs::sync();
        text(&output.stderr).contains("premod_ebpf::emit: generation ")
    };
    assert!(speaks("-vv"));
    assert!(!speaks("-v"));
}

fn limits_end_the_trace(place: &Place) {
    let here = directory(place);
    let script = write(place, &["a", "b", "c"]);
    let output = premod(&["--json", "-n", "2", here, "--", "sh", "-c", &script]);
    assert_eq!(names(&output), ["a", "b"], "{output:?}");
    assert!(output.status.success());

    let began = std::time::Instant::now();
    let output = premod(&["--json", "-d", "0.5", here]);
    assert!(output.status.success());
    assert!(began.elapsed().as_secs_f64() >= 0.5);
    assert!(names(&output).is_empty());
}

fn filters_choose_events(place: &Place) {
    let here = directory(place);
    let script = format!(
        "{}; sync; truncate -s 10 {here}/plain; dd if=/dev/zero of={here}/dd bs=1 count=1 2>/dev/null",
        write(place, &["plain", "skip.tmp"])
    );
    let filtered = |filter: &[&str]| {
        let mut arguments = vec!["--json"];
        arguments.extend(filter);
        arguments.extend([here, "--", "sh", "-c", &script]);
        let seen = names(&premod(&arguments));
        fs::remove_dir_all(here)
            .and_then(|()| fs::create_dir(here))
            .expect("a fresh directory");
        seen
    };
    assert_eq!(
        filtered(&["--comm", "dd", "--fs", &place.filesystem, "-u", "0"]),
        ["dd"]
    );
    assert_eq!(
        filtered(&["--op", "truncate,write", "--exclude", "*.tmp"]),
        ["plain", "plain", "dd"]
    );
    let own_cgroup = fs::read_to_string("/proc/self/cgroup").expect("cgroup v2");
    let own_cgroup = own_cgroup.trim().rsplit(':').next().expect("a path");
    let own_cgroup = format!("/sys/fs/cgroup{own_cgroup}");
    assert!(Path::new(&own_cgroup).is_dir(), "cgroup v2 is mounted");
    assert_eq!(
        filtered(&["--cgroup", &own_cgroup]),
        ["plain", "skip.tmp", "plain", "dd"]
    );
    // Of a longer name the kernel keeps 15 bytes.
    let name = "dd-by-quite-another-name";
    let (dd, file) = (format!("/tmp/{name}"), format!("of={here}/long"));
    fs::copy("/usr/bin/dd", &dd).expect("copying dd");
    let output = premod(&[
        "--json",
        "--comm",
        name,
        here,
        "--",
        &dd,
        "if=/dev/zero",
        "count=1",
        &file,
    ]);
    assert_eq!(names(&output), ["long"]);
    // The rest is the same comparison with other fields (unit tests).
    assert_eq!(filtered(&["-p", "1"]), [""; 0]);
}

fn the_table_is_aligned_and_harmless(place: &Place) {
    let here = directory(place);
    let script = format!(
        "printf x > \"{here}/$(printf 'a\\033[31m\\nb')\"; {}",
        write(place, &["c"])
    );
    let output = premod(&["-T", here, "--", "sh", "-c", &script]);
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(lines.len(), 3, "{output:?}");
    assert!(
        lines[0].starts_with("TIME            OP        WHEN"),
        "{}",
        lines[0]
    );
    let column = lines[0].find("PATH").expect("a PATH column");
    for line in &lines[1..] {
        assert_eq!(&line[column..=column], "/", "{line}");
    }
    assert!(lines[1].ends_with("/a\\x1b[31m\\x0ab"), "{}", lines[1]);
    assert!(!output.stdout.contains(&0x1b));
}

fn a_closed_pipe_ends_quietly(place: &Place) {
    let here = directory(place);
    // Nobody writes anything: no event has to come for it.
    for arguments in [&["trace", "--json", here][..], &["trace", here]] {
        let mut child = Command::new("premod")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("premod can be run");
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr"));
        let mut said = String::new();
        while !said.contains("premod: tracing ") {
            let read = stderr.read_line(&mut said).expect("UTF-8");
            assert!(read > 0, "{said}");
        }
        drop(child.stdout.take());
        let status = wait(&mut child);
        stderr.read_to_string(&mut said).expect("UTF-8");
        assert!(status.success(), "{status}: {said}");
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| !line.contains("active LSMs"))
            .collect();
        assert!(lines.len() == 2 && lines[1].contains(" 0 events"), "{said}");
    }
}
