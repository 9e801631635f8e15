//! premod in a container: in namespaces of its own, with few tasks and descriptors, and beside filesystems that it does not
//! see.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    cgroups::Group,
    harness::Place,
    paths::BindMount,
    refusals::refused,
    tests,
    trace::{Trace, about},
};

tests! {
    on One;
    Alone capabilities_of_a_user_namespace_are_none,
    Alone dates_are_right_in_a_time_namespace,
    Alone whose_numbers_choose_processes_is_said_in_a_pid_namespace,
    Alone where_there_can_be_no_thread_more_premod_goes_on,
    Alone many_mounts_below_need_no_higher_limit,
    Alone a_proc_that_is_not_mounted_is_named,
    Alone a_place_below_where_nothing_is_seen_is_named,
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Runs a command to its end.
fn run(words: &[&str]) -> Output {
    Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .expect("it can be run")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

fn capabilities_of_a_user_namespace_are_none(place: &Place) {
    let here = plain(&place.directory);
    let words = ["CAP_BPF and CAP_PERFMON", "user namespace"];
    let mut trace = Command::new("unshare");
    refused(
        trace.args(["-U", "-r", "premod", "trace", here]),
        10,
        &words,
    );
    let doctor = run(&["unshare", "-U", "-r", "premod", "doctor"]);
    assert_eq!(doctor.status.code(), Some(10), "{doctor:?}");
}

fn dates_are_right_in_a_time_namespace(place: &Place) {
    let script = format!("echo x > {}/file", plain(&place.directory));
    let namespace = ["unshare", "--time", "--fork", "--monotonic", "100000"];
    let trace = ["premod", "trace", "--json", plain(&place.directory)];
    let output = run(&[&namespace[..], &trace, &["--", "sh", "-c", &script]].concat());
    assert!(output.status.success(), "{output:?}");
    let first = output.stdout.split(|&byte| byte == b'\n').next();
    let event: serde_json::Value = serde_json::from_slice(first.expect("a line")).expect("JSON");
    let date: Timestamp = event["timestamp"]
        .as_str()
        .and_then(|date| date.parse().ok())
        .expect("a date");
    let ago = Timestamp::now().duration_since(date).as_secs();
    assert!((0..1000).contains(&ago), "{event}");
}

fn whose_numbers_choose_processes_is_said_in_a_pid_namespace(place: &Place) {
    let trace = ["premod", "trace", "-d", "0.1", plain(&place.directory)];
    let namespace = ["unshare", "--pid", "--fork", "--mount-proc"];
    for (before, option, is_said) in [
        (&namespace[..], &["-p", "1"][..], true),
        (&namespace, &[], false),
        (&[], &["-t", "1"], false),
    ] {
        let output = run(&[before, &trace, option].concat());
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            stderr(&output).contains("pid namespace"),
            is_said,
            "{output:?}"
        );
    }
}

fn where_there_can_be_no_thread_more_premod_goes_on(place: &Place) {
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+pids").expect("the controller of pids");
    let group = Group::new("few-tasks");
    let limit = |tasks: &str| fs::write(format!("{}/pids.max", group.path()), tasks);
    let here = plain(&place.directory);
    // premod says what it lacks, or does without.
    let script = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", group.path());
    for tasks in 1..6 {
        limit(&tasks.to_string()).expect("a limit");
        for command in [&[][..], &["--", "true"]] {
            let trace = [
                "sh", "-c", &script, "sh", "premod", "trace", "-d", "0.1", here,
            ];
            let output = run(&[&trace[..], command].concat());
            let said = stderr(&output);
            assert!(!said.contains("panicked"), "{tasks} tasks: {said}");
            let code = output.status.code();
            let is_told = code == Some(0) || said.contains("os error 11");
            assert!(is_told, "{tasks} tasks: {output:?}");
        }
    }
    // A change of the mounts makes it start another one.
    limit("max").expect("no limit");
    let mut trace = Trace::start(&place.directory);
    fs::write(
        format!("{}/cgroup.procs", group.path()),
        trace.pid().to_string(),
    )
    .expect("moving");
    limit("1").expect("a limit");
    let point = place.file("point");
    fs::create_dir(&point).expect("mkdir");
    for _ in 0..2 {
        let mount = BindMount::new(&place.outside, &point);
        sleep(Duration::from_secs(1));
        drop(mount);
        sleep(Duration::from_secs(1));
    }
    let file = place.file("file");
    fs::write(&file, "x").expect("writing");
    assert_eq!(about(&trace.events(), &file).len(), 1);
    trace.end_cleanly();
}

fn many_mounts_below_need_no_higher_limit(place: &Place) {
    let points: Vec<_> = (0..700)
        .map(|number| place.file(&number.to_string()))
        .collect();
    let mounts: Vec<_> = points
        .iter()
        .map(|point| {
            fs::create_dir(point).expect("mkdir");
            BindMount::new(&place.outside, point)
        })
        .collect();
    let script = "ulimit -n 600; exec premod trace -d 0.1 \"$0\"";
    let output = run(&["sh", "-c", script, plain(&place.directory)]);
    drop(mounts);
    assert!(output.status.success(), "{output:?}");
}

fn a_proc_that_is_not_mounted_is_named(place: &Place) {
    let script = format!(
        "mount -t tmpfs none /proc && exec premod trace {}",
        plain(&place.directory)
    );
    let mut trace = Command::new("unshare");
    refused(
        trace.args(["-m", "sh", "-c", &script]),
        13,
        &["mount -t proc"],
    );
}

fn a_place_below_where_nothing_is_seen_is_named(place: &Place) {
    assert!(run(&["modprobe", "overlay"]).status.success());
    let here = plain(&place.directory);
    let made = format!(
        "cd {here}; mkdir tmp inner outer upper work; cd {}; mkdir lower upper work",
        plain(&place.outside)
    );
    assert!(run(&["sh", "-e", "-c", &made]).status.success());
    let overlay = |above: &Path, at: &str| {
        let lower = place.outside.join("lower");
        let [upper, work] = ["upper", "work"].map(|name| above.join(name));
        let [lower, upper, work] = [&lower, &upper, &work].map(|path| plain(path));
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let at = place.file(at);
        let mounted = run(&["mount", "-t", "overlay", "none", "-o", &options, plain(&at)]);
        assert!(mounted.status.success(), "{mounted:?}");
    };
    let tmp = place.file("tmp");
    assert!(
        run(&["mount", "-t", "tmpfs", "none", plain(&tmp)])
            .status
            .success()
    );
    // What is modified here lies below the PATH, too.
    overlay(&place.directory, "inner");
    let trace = Trace::start(&place.directory);
    overlay(&place.outside, "outer");
    sleep(Duration::from_secs(2));
    let said = trace.end().stderr;
    for mounted in ["tmp", "inner", "outer"] {
        assert!(
            run(&["umount", plain(&place.file(mounted))])
                .status
                .success()
        );
    }
    assert!(said.contains("/tmp (tmpfs) is not seen\n"), "{said}");
    assert!(
        said.contains("/outer is not seen: it is on overlayfs"),
        "{said}"
    );
    assert!(!said.contains("/inner"), "{said}");
}
