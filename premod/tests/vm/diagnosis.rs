//! doctor says what is so.

use std::{
    collections::HashSet,
    fs,
    process::{Command, Output},
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;
use premod::kernel::environment::{KPROBES, Preemption};
use serde_json::Value;

use crate::{
    detached::{is_detaching, wait_until_detached},
    freeze::{policies::terminate, premod::Freeze, process},
    harness::{self, Place},
    refusals::refused,
    tests,
    trace::Trace,
};

tests! {
    Alone doctor_finds_every_fact_and_every_essential_hook on Every,
    Alone doctor_names_the_fallback_where_bpf_is_no_active_lsm on Every,
    Alone doctor_names_the_cost_of_a_function_that_the_kernel_lacks,
    Alone trace_refuses_a_kernel_that_lacks_what_it_cannot_do_without on One,
    Alone constants_are_found_where_tracefs_is_not_mounted,
    Alone kprobes_that_are_switched_off_are_not_relied_on,
    Alone kprobes_that_are_switched_off_meanwhile_are_noticed,
    Alone doctors_live_test_sees_write_store_and_truncate,
    Alone the_library_yields_typed_events,
    Alone doctor_refuses_a_live_test_where_nothing_can_be_seen on One,
    Alone premod_ends_at_once_and_its_programs_are_gone_soon,
}

fn doctor(arguments: &[&str]) -> Output {
    Command::new("premod")
        .arg("doctor")
        .args(arguments)
        .output()
        .expect("premod can be run")
}

/// What doctor says as if the kernel did not have these functions.
fn doctor_hiding(functions: &str) -> (Option<i32>, Vec<Value>) {
    let output = Command::new("premod")
        .args(["doctor", "--json"])
        .env("PREMOD_HIDDEN_FUNCTIONS", functions)
        .output()
        .expect("premod can be run");
    let problems = document(&output)["problems"].as_array().cloned();
    (output.status.code(), problems.expect("problems"))
}

/// What `doctor --json` says without a live test.
fn report() -> &'static (Output, Value) {
    static REPORT: OnceLock<(Output, Value)> = OnceLock::new();
    REPORT.get_or_init(|| {
        let output = doctor(&["--json"]);
        let report = document(&output);
        (output, report)
    })
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn doctor_finds_every_fact_and_every_essential_hook(_place: &Place) {
    let (output, report) = report();
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["works"], true);
    for fact in report["facts"].as_array().expect("facts") {
        assert!(fact["value"].is_u64(), "{fact}");
    }
    for hook in report["hooks"].as_array().expect("hooks") {
        assert!(
            hook["attached"].is_object() || hook["essential"] == false,
            "{hook}"
        );
    }
    let kinds: Vec<&str> = report["filesystems"]
        .as_array()
        .expect("filesystems")
        .iter()
        .filter(|filesystem| filesystem["promise"] == "tested")
        .filter_map(|filesystem| filesystem["type"].as_str())
        .collect();
    assert_eq!(kinds, ["btrfs", "ext4", "xfs"]);
    let text = String::from_utf8(doctor(&[]).stdout).expect("UTF-8");
    assert!(text.ends_with("premod trace works here\n"), "{text}");
}

fn doctor_names_the_fallback_where_bpf_is_no_active_lsm(place: &Place) {
    let (_, report) = report();
    let kind = |target: &str| {
        let hooks = report["hooks"].as_array().expect("hooks");
        let attached = hooks.iter().map(|hook| &hook["attached"]);
        attached
            .clone()
            .find(|way| way["target"] == target)
            .map(|way| way["kind"].clone())
    };
    let problems = report["problems"].as_array().expect("problems");
    let told = problems.iter().any(|problem| {
        let what = problem["what"].as_str().unwrap_or_default();
        what.contains("bpf is not among the active LSMs") && problem["fatal"] == false
    });
    if place.lsm {
        assert_eq!(kind("path_truncate").expect("attached"), "lsm");
        assert!(!told, "{problems:?}");
    } else {
        assert_eq!(kind("security_path_truncate").expect("attached"), "fentry");
        assert!(told, "{problems:?}");
        let here = place.directory.to_str().expect("a plain path");
        let traced = Command::new("premod")
            .args(["trace", here, "--", "true"])
            .output();
        let stderr = String::from_utf8(traced.expect("premod can be run").stderr).expect("UTF-8");
        assert!(
            stderr.contains("bpf is not among the active LSMs"),
            "{stderr}"
        );
    }
}

fn doctor_names_the_cost_of_a_function_that_the_kernel_lacks(_place: &Place) {
    let costs = |problems: &[Value], what: &str| {
        let about = |problem: &&Value| problem["what"].as_str().is_some_and(|it| it.contains(what));
        let found = problems.iter().find(about).cloned();
        found.unwrap_or_else(|| panic!("nothing about {what}: {problems:#?}"))
    };
    // Not needed, but something is lost.
    let (status, problems) = doctor_hiding("vfs_copy_file_range,dax_iomap_fault");
    assert_eq!(status, Some(0), "{problems:?}");
    let problem = costs(&problems, "no vfs_copy_file_range");
    assert_eq!(problem["cost"], "it is reported as op write");
    let problem = costs(&problems, "no dax_iomap_fault");
    assert_eq!(problem["cost"], "stores to DAX files are announced late");
    // Another will do, and nothing is lost.
    let (status, problems) = doctor_hiding("kiocb_invalidate_pages");
    assert_eq!(status, Some(0), "{problems:?}");
    assert!(
        !problems.iter().any(|problem| problem["what"]
            .as_str()
            .is_some_and(|what| what.contains("direct writes"))),
        "{problems:?}"
    );
    // Needed.
    let (status, problems) = doctor_hiding("do_page_mkwrite");
    assert_eq!(status, Some(13), "{problems:?}");
    let problem = costs(&problems, "no do_page_mkwrite");
    assert_eq!(
        (&problem["cost"], &problem["fatal"]),
        (
            &"stores through mappings would be missed".into(),
            &true.into()
        )
    );
}

fn trace_refuses_a_kernel_that_lacks_what_it_cannot_do_without(place: &Place) {
    for functions in [
        "kiocb_invalidate_pages,invalidate_inode_pages2_range",
        "lock_two_nondirectories",
    ] {
        let output = Command::new("premod")
            .args(["trace", "--", "true"])
            .current_dir(&place.directory)
            .env("PREMOD_HIDDEN_FUNCTIONS", functions)
            .output()
            .expect("premod can be run");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(13), "{stderr}");
        let (first, _) = functions.split_once(',').unwrap_or((functions, ""));
        assert!(stderr.contains(first), "{stderr}");
    }
}

/// As in a container.
fn constants_are_found_where_tracefs_is_not_mounted(_place: &Place) {
    use std::os::unix::process::CommandExt;

    use rustix::{
        mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
        thread::{UnshareFlags, unshare_unsafe},
    };
    let mut command = Command::new("premod");
    command.args(["doctor", "--json"]);
    // SAFETY: between fork and exec there are system calls only.
    unsafe {
        command.pre_exec(|| {
            unshare_unsafe(UnshareFlags::NEWNS)?;
            mount_change(
                "/",
                MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            )?;
            for point in [
                "/sys/kernel/debug/tracing",
                "/sys/kernel/debug",
                "/sys/kernel/tracing",
            ] {
                let _ = unmount(point, UnmountFlags::DETACH);
            }
            Ok(())
        });
    }
    let report = document(&command.output().expect("premod can be run"));
    let facts = report["facts"].as_array().expect("facts");
    let fact = facts.iter().find(|fact| fact["name"] == "I_DIRTY_PAGES");
    assert!(fact.expect("the fact")["value"].is_u64(), "{fact:?}");
}

fn kprobes_that_are_switched_off_are_not_relied_on(place: &Place) {
    let here = place.directory.to_str().expect("a plain path");
    fs::write(KPROBES, "0").expect("switching kprobes off");
    let probed = doctor(&["--probe", here]);
    let file = place.file("file");
    fs::write(&file, "x").expect("writing");
    let mut freeze = Command::new("premod");
    freeze.arg("freeze").arg(&file).args(["--", "true"]);
    if place.lsm {
        refused(&mut freeze, 13, &["kprobes", "echo 1"]);
    }
    fs::write(KPROBES, "1").expect("switching kprobes on");
    assert_eq!(probed.status.code(), Some(0), "{probed:?}");
}

/// Nothing else tells that from a machine on which nobody modifies anything.
fn kprobes_that_are_switched_off_meanwhile_are_noticed(place: &Place) {
    let file = place.file("file");
    fs::write(&file, "x").expect("writing");
    let mut trace = Trace::start(&place.directory);
    let freeze = place.lsm.then(|| {
        let mut freeze = Freeze::start(&[file.to_str().expect("a plain path")]);
        freeze.frozen();
        freeze
    });
    fs::write(KPROBES, "0").expect("switching kprobes off");
    let violated = freeze.map(|mut freeze| {
        freeze.hear("that it is violated", |line| line["type"] == "violated");
        terminate(freeze)
    });
    // premod looks twice a second.
    sleep(Duration::from_secs(2));
    fs::write(KPROBES, "1").expect("switching kprobes on");
    let records = trace.events();
    // Elsewhere the trace's programs hang on something else.
    let told = harness::preemption() == Preemption::Anywhere && harness::kernel_at_least(6, 2);
    let losses = records
        .iter()
        .filter(|record| record["reason"] == "kprobes_off")
        .count();
    assert_eq!(losses, usize::from(told), "{records:?}");
    trace.end();
    if let Some(ended) = violated {
        ended.expect(17);
    }
}

fn doctors_live_test_sees_write_store_and_truncate(place: &Place) {
    let here = place.directory.to_str().expect("a plain path");
    let output = doctor(&["--json", "--probe", here]);
    let report = document(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let probe = report["probe"].as_array().expect("a probe");
    let ops: Vec<_> = probe
        .iter()
        .map(|one| one["op"].as_str().expect("an op"))
        .collect();
    assert_eq!(ops, ["write", "mmap", "truncate"]);
    assert!(probe.iter().all(|one| one["seen"] == true), "{probe:?}");
    let left = fs::read_dir(&place.directory)
        .expect("the directory")
        .count();
    assert_eq!(left, 0, "the scratch file is gone");
}

fn doctor_refuses_a_live_test_where_nothing_can_be_seen(_place: &Place) {
    let output = doctor(&["--probe", "/tmp"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("PROBLEM") && text.contains("tmpfs"), "{text}");
}

/// What the library's documentation shows.
fn the_library_yields_typed_events(place: &Place) {
    use premod::{
        Tracer,
        events::{Op, Pid, Record},
    };
    let path = place.file("data");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let builder = Tracer::builder().path(&place.directory).include_own(true);
        let mut tracer = builder.start().expect("tracing starts");
        fs::write(&path, "x").expect("writing");
        let Some(Record::FirstDirty(event)) = tracer.next().await else {
            panic!("no event")
        };
        assert_eq!(event.path.to_path_buf(), path);
        assert_eq!((event.op, event.pre, event.seq), (Op::Write, true, 1));
        assert_eq!(event.pid, Pid(std::process::id()));
        tracer.stop();
        assert_eq!(tracer.next().await, None, "a stopped stream ends");
        assert_eq!(tracer.summary().events, 1);
    });
}

/// The kernel takes seconds to take the programs off. Whoever waits for premod, or for the end of its output, waits
/// for none of them.
fn premod_ends_at_once_and_its_programs_are_gone_soon(place: &Place) {
    let programs = || -> HashSet<u32> {
        let programs = loaded_programs().filter_map(Result::ok);
        programs.map(|program| program.id()).collect()
    };
    wait_until_detached();
    let before = programs();
    let trace = Trace::start(&place.directory);
    let hooked = &programs() - &before;
    let began = Instant::now();
    trace.end_cleanly();
    let ended = began.elapsed();
    assert!(is_detaching(), "premod itself took {ended:?}");
    wait_until_detached();
    let detached = began.elapsed();
    // What nobody holds any more the kernel frees when it comes to it.
    process::wait_for("all are gone", || programs().is_disjoint(&hooked));
    let hooked = hooked.len();
    eprintln!("{hooked} programs: premod ended in {ended:?}, they were gone in {detached:?}");
    assert!(hooked > 0 && ended < detached / 2, "{ended:?} {detached:?}");
}
