//! Hazards of the protocol, each driven on purpose: a thread is held in the gap in which it would have to
//! be by chance ([`crate::spin`]), while the other half of the race happens.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use serde_json::Value;

use crate::{
    harness::{Check, Place},
    spin::{self, Gap, Report},
    tests,
    trace::Trace,
    workload::{Mapping, clean_file, now},
};

tests! {
    Shared a_writer_that_slept_after_its_permission_check_is_announced_again,
    Shared a_writer_that_slept_after_its_last_check_is_announced_before_its_copy,
    Shared a_direct_write_whose_file_becomes_clean_after_its_last_check_is_announced,
    Alone a_direct_write_is_announced_where_the_kernel_has_no_kiocb_invalidate_pages on Every,
    Shared a_long_write_whose_file_becomes_clean_is_announced_before_its_next_page,
    Shared a_file_that_becomes_clean_during_a_copy_is_announced_late,
    Shared two_writers_at_once_make_one_event_and_both_come_after_it,
    Shared a_write_during_fsync_is_covered_by_an_event,
    Shared a_truncate_during_fsync_is_covered_by_an_event,
    Shared a_store_between_fault_and_marking_is_announced_before_it,
    Shared a_store_whose_file_becomes_clean_within_its_fault_is_announced_again,
    Shared a_change_between_the_net_and_the_mark_is_covered_by_an_event,
    Shared an_inode_number_used_again_is_announced_on_its_own,
    Alone a_buffer_that_is_full_for_two_writers_loses_one_event,
}

/// Beyond whatever the kernel puts into one folio with the file's beginning.
pub(crate) const FAR: u64 = 8 << 20;

/// A file that is open for both, is longer than [`FAR`], and clean.
fn long_file(path: &Path) -> File {
    let file = clean_file(path);
    // Not to be extended: xfs looks twice then.
    file.set_len(2 * FAR).expect("ftruncate");
    file.sync_all().expect("fsync");
    file
}

/// Writes all pages back, and takes no lock that a writer holds.
fn clean(file: &File) {
    use std::os::fd::AsRawFd;
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: an open descriptor.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, all) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn write(file: &File, offset: u64) {
    file.write_all_at(b"x", offset).expect("pwrite");
}

/// One more owner of an open file.
fn again(file: &File) -> File {
    file.try_clone().expect("dup")
}

/// The events about an open file, however their hook knew its path.
pub(crate) fn about(events: &[Value], file: &File, place: &Place) -> Vec<Value> {
    let number = file.metadata().expect("fstat").ino();
    let mut found = events.to_vec();
    found.retain(|event| {
        assert_eq!(
            event["type"], "first_dirty",
            "nothing is lost here: {event}"
        );
        event["inode"] == number && event["fs"] == *place.filesystem
    });
    found
}

/// The only event about a file, which has to be before its change.
pub(crate) fn only(events: &[Value], file: &File, place: &Place) -> Value {
    let found = about(events, file, place);
    let [event] = &found[..] else {
        panic!("not one event but {found:?}");
    };
    assert_eq!(event["pre"], true, "{event}");
    event.clone()
}

fn time(event: &Value) -> u64 {
    event["mono_ns"].as_u64().expect("a time")
}

/// Hazard 1: file_permission has found the file dirty and announced; before the copy it is cleaned.
fn a_writer_that_slept_after_its_permission_check_is_announced_again(place: &Place) -> Check {
    slept(place, Gap::Permitted)
}

/// The same, when nothing is left but the copy itself.
fn a_writer_that_slept_after_its_last_check_is_announced_before_its_copy(place: &Place) -> Check {
    slept(place, Gap::Checked)
}

/// To a page that is in memory or is not, which are different ways in the kernel.
fn slept(place: &Place, gap: Gap) -> Check {
    let file = long_file(&place.file("data"));
    let place = place.clone();
    Box::new(move |trace| {
        let mut open = spin::open(gap);
        for (offset, generation) in [(FAR, 1), (0, 3)] {
            write(&file, 0);
            let event = only(&trace.events(), &file, &place);
            assert_eq!(event["generation"], generation, "{event}");
            let same = again(&file);
            let held = open.hold(move || write(&same, offset));
            let tid = held.tid;
            clean(&file);
            let cleaned = now();
            let ((), report) = held.release();
            let event = only(&trace.events(), &file, &place);
            assert_eq!(event["generation"], generation + 1, "{event}");
            assert_eq!(event["tid"], tid, "{event}");
            assert!(
                cleaned < time(&event) && time(&event) < report.copied,
                "{cleaned} < {event} < {report:?}"
            );
            clean(&file);
        }
    })
}

/// A direct write to a file that is dirty and announced, so that its first look has nothing to do.
fn a_direct_write_whose_file_becomes_clean_after_its_last_check_is_announced(
    place: &Place,
) -> Check {
    let (file, direct) = dirty_and_direct(place);
    let place = place.clone();
    Box::new(move |trace| overtaken_direct_write(trace, &file, direct, &place))
}

fn a_direct_write_is_announced_where_the_kernel_has_no_kiocb_invalidate_pages(place: &Place) {
    let (file, direct) = dirty_and_direct(place);
    let mut trace = Trace::start_hiding(&place.directory, "kiocb_invalidate_pages");
    overtaken_direct_write(&mut trace, &file, direct, place);
    trace.end_cleanly();
}

fn dirty_and_direct(place: &Place) -> (File, File) {
    let path = place.file("data");
    let file = long_file(&path);
    let direct = File::options()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .expect("open with O_DIRECT");
    (file, direct)
}

fn overtaken_direct_write(trace: &mut Trace, file: &File, direct: File, place: &Place) {
    let mut open = spin::open(Gap::Checked);
    // Twice, so that the file is known to be dirty and announced.
    write(file, 0);
    write(file, 1);
    let event = only(&trace.events(), file, place);
    assert_eq!(event["generation"], 1, "{event}");
    let memory = Mapping::aligned(4096);
    let held = open.hold(move || direct.write_all_at(memory.bytes(), FAR).expect("pwrite"));
    let tid = held.tid;
    clean(file);
    let cleaned = now();
    let ((), _) = held.release();
    let event = only(&trace.events(), file, place);
    assert_eq!(
        (&event["generation"], &event["tid"]),
        (&2.into(), &tid.into())
    );
    assert!(cleaned < time(&event), "{cleaned} < {event}");
}

/// One write, and between two of its pages those before are written back.
fn a_long_write_whose_file_becomes_clean_is_announced_before_its_next_page(place: &Place) -> Check {
    let file = long_file(&place.file("data"));
    let place = place.clone();
    Box::new(move |trace| {
        let mut open = spin::open(Gap::Between).after(1);
        let same = again(&file);
        // More than the kernel puts into one folio.
        let bytes = vec![b'x'; FAR as usize];
        let held = open.hold(move || same.write_all_at(&bytes, FAR).expect("pwrite"));
        clean(&file);
        let cleaned = now();
        let ((), report) = held.release();
        let events = about(&trace.events(), &file, &place);
        let [first, second] = &events[..] else {
            panic!("not two events but {events:?}");
        };
        assert_eq!(
            (&first["pre"], &second["pre"]),
            (&true.into(), &true.into()),
            "{events:?}"
        );
        assert!(time(first) < report.entered, "{first} {report:?}");
        assert!(
            cleaned < time(second) && time(second) < report.copied,
            "{cleaned} < {second} < {report:?}"
        );
    })
}

/// What remains: the page is copied already when the file becomes clean, and not marked yet. Its
/// change belongs to both periods, so the event of the second cannot come before it.
fn a_file_that_becomes_clean_during_a_copy_is_announced_late(place: &Place) -> Check {
    let file = long_file(&place.file("data"));
    let place = place.clone();
    Box::new(move |trace| {
        write(&file, 0);
        assert_eq!(only(&trace.events(), &file, &place)["generation"], 1);
        let mut open = spin::open(Gap::Copied);
        let same = again(&file);
        let held = open.hold(move || write(&same, FAR));
        clean(&file);
        held.release();
        let events = about(&trace.events(), &file, &place);
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["pre"], false, "{events:?}");
        assert_eq!(events[0]["generation"], 2, "{events:?}");
        trace.provoked += 1;
    })
}

/// Hazard 2: while the first one is announcing, the second one goes on to its change, and must not get there
/// before an event. The first writes, under the inode's lock; the second stores through a mapping, which needs none.
fn two_writers_at_once_make_one_event_and_both_come_after_it(place: &Place) -> Check {
    let (file, mut mapping) = mapped_file(&place.file("data"));
    let place = place.clone();
    Box::new(move |trace| {
        let mut open = spin::open(Gap::Announcing);
        let same = again(&file);
        let held = open.hold(move || write(&same, FAR));
        mapping.store(0, b'2');
        let event = only(&trace.events(), &file, &place);
        assert_eq!(event["generation"], 1, "{event}");
        held.release();
        drop(open);
        let more = about(&trace.events(), &file, &place);
        assert!(more.is_empty(), "announced again: {more:?}");
    })
}

/// Hazard 3: the change comes when the fsync has begun, and when it has written the pages.
fn a_write_during_fsync_is_covered_by_an_event(place: &Place) -> Check {
    during_fsync(place, |file| write(file, FAR), "write")
}

fn a_truncate_during_fsync_is_covered_by_an_event(place: &Place) -> Check {
    during_fsync(
        place,
        |file| file.set_len(100).expect("ftruncate"),
        "truncate",
    )
}

fn during_fsync(place: &Place, change: fn(&File), op: &'static str) -> Check {
    let file = long_file(&place.file("data"));
    let place = place.clone();
    Box::new(move |trace| {
        let mut before = |gap| {
            write(&file, 0);
            let first = only(&trace.events(), &file, &place);
            let mut open = spin::open(gap);
            let same = again(&file);
            let held = open.hold(move || same.sync_all().expect("fsync"));
            change(&file);
            let changed = now();
            held.release();
            let events = about(&trace.events(), &file, &place);
            assert!(
                events.iter().all(|event| time(event) < changed),
                "{events:?}"
            );
            file.sync_all().expect("fsync");
            (first, events)
        };
        let (first, events) = before(Gap::Flushing);
        assert!(
            events.is_empty(),
            "still dirty, so {first} covers it: {events:?}"
        );
        let (first, events) = before(Gap::Flushed);
        let [event] = &events[..] else {
            panic!("clean, so {first} does not cover it: {events:?}");
        };
        assert_eq!(
            (&event["pre"], &event["op"]),
            (&true.into(), &op.into()),
            "{event}"
        );
    })
}

/// A file that is mapped, stored to before, and clean.
pub(crate) fn mapped_file(path: &Path) -> (File, Mapping) {
    let file = long_file(path);
    file.write_all_at(&[b'0'; 4096], FAR).expect("room");
    let mut mapping = Mapping::shared(&file, 2 * FAR as usize);
    mapping.store(0, b'1');
    mapping.store(FAR as usize, b'1');
    file.sync_all().expect("fsync");
    (file, mapping)
}

/// Hazard 4: the mapping looks clean between the fault's announcement and the mark.
fn a_store_between_fault_and_marking_is_announced_before_it(place: &Place) -> Check {
    let (file, mapping) = mapped_file(&place.file("data"));
    let place = place.clone();
    Box::new(move |trace| {
        let (report, _) = two_stores(&file, mapping, false);
        let event = only(&trace.events(), &file, &place);
        assert_eq!(event["op"], "mmap", "{event}");
        assert!(time(&event) < report.entered, "{event} {report:?}");
    })
}

/// The same with an fsync in the gap: the store itself comes after that, and has to have an event of its
/// own. The net makes it before the page can be written to, but does not know that, and calls it late.
fn a_store_whose_file_becomes_clean_within_its_fault_is_announced_again(place: &Place) -> Check {
    let (file, mapping) = mapped_file(&place.file("data"));
    let place = place.clone();
    Box::new(move |trace| {
        let (report, cleaned) = two_stores(&file, mapping, true);
        let events = about(&trace.events(), &file, &place);
        let [first, second] = &events[..] else {
            panic!("not two events but {events:?}");
        };
        assert!(time(first) < report.entered, "{first} {report:?}");
        assert_eq!(
            (&first["pre"], &second["pre"]),
            (&true.into(), &false.into())
        );
        assert!(
            cleaned < time(second) && time(second) < report.faulted,
            "{cleaned} < {second} < {report:?}"
        );
        trace.provoked += 1;
    })
}

/// A store is held in its fault while another page is stored to, and perhaps written back. Returns when that
/// was over.
fn two_stores(file: &File, mut mapping: Mapping, fsync: bool) -> (Report, u64) {
    let mut open = spin::open(Gap::Faulting);
    let mut same = Mapping::shared(file, 2 * FAR as usize);
    let held = open.hold(move || same.store(FAR as usize, b'2'));
    mapping.store(0, b'2');
    if fsync {
        clean(file);
    }
    let cleaned = now();
    let ((), report) = held.release();
    (report, cleaned)
}

/// The net has noted that a page is dirty, and the mapping does not show it yet. A touch at this moment
/// takes the period for settled: an event too many, which is the safe direction.
fn a_change_between_the_net_and_the_mark_is_covered_by_an_event(place: &Place) -> Check {
    let (file, mut mapping) = mapped_file(&place.file("data"));
    let place = place.clone();
    Box::new(move |trace| {
        let mut open = spin::open(Gap::Marking).with_limit(Duration::from_millis(50));
        for _ in 0..5 {
            let mut same = Mapping::shared(&file, 2 * FAR as usize);
            let mut held = open.hold(move || same.store(0, b'2'));
            // It waits for the mapping's lock, which the victim has, and the victim for its limit.
            mapping.store(FAR as usize, b'2');
            let ((), report) = held.wait();
            let events = about(&trace.events(), &file, &place);
            assert!(
                events.iter().all(|event| event["pre"] == true),
                "{events:?}"
            );
            assert!(!events.is_empty(), "no event");
            assert!(time(&events[0]) < report.entered, "{events:?} {report:?}");
            if let [_, second] = &events[..] {
                let second = time(second);
                assert!(
                    report.entered < second && second < report.left,
                    "{events:?} {report:?}"
                );
                return;
            }
            // The second store came too late, into the announced period.
            assert_eq!(events.len(), 1, "{events:?}");
            clean(&file);
        }
        panic!("no second store came into the gap");
    })
}

/// Hazard 5: while an inode's memory has not been given back, its number is in use again.
fn an_inode_number_used_again_is_announced_on_its_own(place: &Place) -> Check {
    const ROUNDS: usize = 10;
    let place = place.clone();
    Box::new(move |trace| {
        let path = place.file("data");
        let mut numbers = Vec::new();
        let mut open = spin::open(Gap::Forgotten);
        for _ in 0..ROUNDS {
            let old = clean_file(&path);
            numbers.push(old.metadata().expect("fstat").ino());
            let event = only(&trace.events(), &old, &place);
            assert_eq!(event["generation"], 1, "{event}");
            fs::remove_file(&path).expect("unlinking");
            let held = open.hold(move || drop(old));
            let new = File::create(&path).expect("a new file");
            write(&new, 0);
            let ((), _) = held.release();
            let event = only(&trace.events(), &new, &place);
            assert_eq!(event["generation"], 1, "{event}");
            numbers.push(new.metadata().expect("fstat").ino());
            fs::remove_file(&path).expect("unlinking");
        }
        numbers.sort_unstable();
        numbers.dedup();
        let reused = 2 * ROUNDS - numbers.len();
        // btrfs gives each inode a new number.
        assert_eq!(reused > 0, place.filesystem != "btrfs", "{numbers:?}");
    })
}

/// Hazard 7: two writers touch a file while the buffer is full. Neither's announcement gets through; it is
/// lost once, and the next touch repeats it once.
fn a_buffer_that_is_full_for_two_writers_loses_one_event(place: &Place) {
    const FILES: u64 = 100;
    let (file, mut mapping) = mapped_file(&place.file("data"));
    let directory = place.directory.to_str().expect("a plain path");
    let mut trace = Trace::start_with(&place.directory, &["--buffer-size", "4096", directory]);
    let pid = rustix::process::Pid::from_raw(trace.pid() as i32).expect("a pid");
    // While premod does not read, the buffer fills up.
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("premod runs");
    for number in 0..FILES {
        fs::write(place.file(&format!("f{number}")), "x").expect("writing");
    }
    let mut open = spin::open(Gap::Announcing);
    let same = again(&file);
    let held = open.hold(move || write(&same, FAR));
    mapping.store(0, b'2');
    held.release();
    drop(open);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("premod runs");
    let first = first_dirty(trace.events());
    assert!(about(&first, &file, place).is_empty(), "{first:?}");
    write(&file, 0);
    let again = first_dirty(trace.events());
    let [event] = &again[..] else {
        panic!("not one event but {again:?}");
    };
    assert_eq!(
        (&event["retried"], &event["pre"]),
        (&true.into(), &false.into()),
        "{event}"
    );
    let retried = trace.sentinels_retried;
    let ended = trace.end();
    let lost = FILES - first.len() as u64 + 1 + retried;
    assert_eq!(
        ended.summary["lost"],
        lost + ended.skipped,
        "{}",
        ended.summary
    );
}

fn first_dirty(mut records: Vec<Value>) -> Vec<Value> {
    records.retain(|record| record["type"] == "first_dirty");
    records
}
