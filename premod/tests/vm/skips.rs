//! Programs that the kernel skips: a task is held inside of one, another takes its CPU and changes a file.

use std::{
    fs::{self, File},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use premod::kernel::environment::Preemption;
use serde_json::Value;

use crate::{
    harness::{self, Check, Place},
    races::{about, mapped_file, only},
    spin::{self, Gap},
    tests,
    trace::Trace,
    workload::{Mapping, clean_file, now},
};

tests! {
    on Preempted;
    Shared a_change_is_announced_before_it_though_its_cpu_was_taken_from_a_program,
    Alone a_skipped_program_is_reported_as_lost,
}

/// A change that is ready to be made.
type Change = Box<dyn FnOnce() + Send>;

/// A way to change a file: its name in the events, and what gets it ready for a file that is then clean.
type Way = (&'static str, fn(&Path) -> (File, Change));

const BLOCK: usize = 4096;

fn ways(place: &Place) -> Vec<Way> {
    let mut ways: Vec<Way> = vec![
        ("write", |path| {
            let file = clean_file(path);
            (
                again(&file),
                Box::new(move || file.write_all_at(b"2", 0).expect("pwrite")),
            )
        }),
        ("write", |path| {
            let file = clean_file(path);
            let direct = File::options()
                .write(true)
                .custom_flags(libc::O_DIRECT)
                .open(path)
                .expect("O_DIRECT");
            let bytes = Mapping::aligned(BLOCK);
            (
                file,
                Box::new(move || direct.write_all_at(bytes.bytes(), 0).expect("pwrite")),
            )
        }),
        ("mmap", |path| {
            let (file, mut mapping) = mapped_file(path);
            (file, Box::new(move || mapping.store(0, b'2')))
        }),
        ("truncate", |path| {
            let file = clean_file(path);
            (
                again(&file),
                Box::new(move || file.set_len(100).expect("ftruncate")),
            )
        }),
        ("fallocate", |path| {
            let file = clean_file(path);
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            (
                again(&file),
                Box::new(move || {
                    // SAFETY: an open descriptor.
                    let result =
                        unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, BLOCK as i64) };
                    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
                }),
            )
        }),
        ("copy", |path| {
            let (file, source) = (clean_file(path), source(path));
            (
                again(&file),
                Box::new(move || {
                    let (mut from, mut to) = (0, 0);
                    // SAFETY: open descriptors, and offsets that live through the call.
                    let result = unsafe {
                        libc::copy_file_range(
                            source.as_raw_fd(),
                            &raw mut from,
                            file.as_raw_fd(),
                            &raw mut to,
                            BLOCK,
                            0,
                        )
                    };
                    assert!(result > 0, "{}", std::io::Error::last_os_error());
                }),
            )
        }),
    ];
    if place.filesystem != "ext4" {
        ways.push(("clone", |path| {
            let (file, source) = (clean_file(path), source(path));
            (
                again(&file),
                Box::new(move || rustix::fs::ioctl_ficlone(&file, &source).expect("FICLONE")),
            )
        }));
    }
    ways
}

/// One more owner of an open file.
fn again(file: &File) -> File {
    file.try_clone().expect("dup")
}

/// A file to copy from, beside another one.
fn source(path: &Path) -> File {
    clean_file(&path.with_extension("source"))
}

/// Where tasks are preempted at the end of a slice, every way has a program that is not: whoever runs inside of it keeps
/// the CPU. Elsewhere there is nobody who takes it.
fn a_change_is_announced_before_it_though_its_cpu_was_taken_from_a_program(place: &Place) -> Check {
    let ready: Vec<_> = ways(place)
        .into_iter()
        .enumerate()
        .map(|(number, (op, ready))| {
            // Each in a directory of its own, whose path has to be told: that is where a victim is held.
            let file = |name| {
                let directory = place.file(&format!("{name}-{number}"));
                fs::create_dir(&directory).expect("a new directory");
                ready(&directory.join("file"))
            };
            (op, file("held"), file("data"))
        })
        .collect();
    let place = place.clone();
    Box::new(move |trace| {
        let skipped = trace.skipped();
        for (op, (held_file, held_change), (file, change)) in ready {
            let changed = beside(held_change, change);
            let events = trace.events();
            for (file, changed) in [(held_file, changed.held), (file, changed.other)] {
                let event = only(&events, &file, &place);
                assert_eq!(event["op"], op, "{event}");
                assert!(
                    event["mono_ns"].as_u64().expect("a time") < changed,
                    "{changed} < {event}"
                );
            }
        }
        wait_for_skips(trace, |_| false);
        assert_eq!(trace.skipped(), skipped, "{:?}", trace.skips);
    })
}

/// Where tasks are preempted, and the kernel has no kprobe that would do, as 6.1: the skip is reported as lost, and the net
/// announces the store.
fn a_skipped_program_is_reported_as_lost(place: &Place) {
    if harness::preemption() == Preemption::Never {
        return;
    }
    let (held_file, mut held_mapping) = mapped_file(&place.file("held"));
    let (file, mut mapping) = mapped_file(&place.file("data"));
    let mut trace = Trace::start_hiding(&place.directory, "bpf_rdonly_cast");
    let changed = beside(
        Box::new(move || held_mapping.store(0, b'2')),
        Box::new(move || mapping.store(0, b'2')),
    );
    assert!(changed.other < changed.held, "nobody was preempted");
    let mut events = trace.events();
    only(&events, &held_file, place);
    events = about(&events, &file, place);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["pre"], false, "{events:?}");
    wait_for_skips(&mut trace, |trace| trace.skipped() > 0);
    assert!(trace.skipped() > 0, "premod did not notice the skip");
    let here = |skip: &Value| skip["hook"] == "do_page_mkwrite";
    assert!(trace.skips.iter().any(here), "{:?}", trace.skips);
    trace.end();
}

/// When each of two tasks had made its change.
struct Changed {
    held: u64,
    other: u64,
}

/// Makes a change that is held while it is being announced, and another one by a task that takes its CPU if it can.
fn beside(held: Change, other: Change) -> Changed {
    let mut open = spin::open(Gap::Announcing);
    let (go, wait) = mpsc::channel();
    let second = thread::spawn(move || {
        spin::run_on(&[spin::VICTIMS_CPU]);
        spin::run_first();
        wait.recv().expect("the test lets it go");
        other();
        now()
    });
    let held = open.hold(move || {
        held();
        now()
    });
    go.send(()).expect("the other thread");
    thread::sleep(Duration::from_millis(20));
    let (held, _) = held.release();
    let other = second.join().expect("the other thread");
    Changed { held, other }
}

/// Waits until it is so, or premod has asked the kernel for skips, which it does twice a second.
fn wait_for_skips(trace: &mut Trace, is_so: impl Fn(&Trace) -> bool) {
    for _ in 0..100 {
        if is_so(trace) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
        trace.events();
    }
}
