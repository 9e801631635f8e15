//! One event per clean period, before the modification, whatever the way.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    harness::{Check, Place},
    races::FAR,
    tests,
    trace::{Trace, about},
    workload::{Mapping, clean_file, now},
};

tests! {
    on Every;
    Shared a_write_through_an_old_descriptor_makes_one_event_per_clean_period,
    Shared a_store_through_an_old_mapping_makes_one_event_per_clean_period,
    Shared a_truncate_makes_one_event_per_clean_period,
    Shared an_open_with_o_trunc_makes_one_event_per_clean_period,
    Shared a_fallocate_makes_one_event_per_clean_period,
    Shared direct_writes_make_one_event_per_sync,
    Shared direct_writes_that_return_when_they_are_on_disk_make_one_event_each,
    Shared sync_of_the_filesystem_ends_the_period_too,
    Shared a_dirty_mark_that_outlives_a_sync_hides_nothing_on_btrfs,
    Shared a_write_into_a_reflink_copy_is_announced,
    Alone changes_without_dirty_pages_are_announced_again_after_a_period,
}

/// Modifies a file that is open since before premod started, and checks the promise: one event before
/// the first modification, none for a thousand more, and after fsync one for the next. `change` is told
/// the round.
fn one_event_per_period(
    path: PathBuf,
    file: File,
    op: &'static str,
    mut change: impl FnMut(u64) + 'static,
) -> Check {
    Box::new(move |trace| {
        let mut generations = Vec::new();
        for period in 0..3 {
            let before = now();
            change(0);
            let after = now();
            for round in 1..=1000 {
                change(round);
            }
            let events = trace.events();
            let [event] = about(&events, &path)[..] else {
                panic!("period {period}: not one event but {events:?}");
            };
            check_event(event, &file, op);
            let announced = event["mono_ns"].as_u64().expect("a time");
            assert!(
                before < announced && announced < after,
                "{before} < {announced} < {after}"
            );
            generations.push(event["generation"].as_u64().expect("a generation"));
            file.sync_all().expect("fsync");
        }
        assert_eq!(generations, [1, 2, 3]);
    })
}

/// btrfs leaves marks behind when two tasks are in each other's way. That cannot be forced; but the sync of one page leaves
/// the mark of another, and whose it is the mark does not say.
fn a_dirty_mark_that_outlives_a_sync_hides_nothing_on_btrfs(place: &Place) -> Check {
    let path = place.file("two-pages");
    let file = clean_file(&path);
    file.set_len(2 * FAR).expect("a larger file");
    file.sync_all().expect("fsync");
    let mut mapping = Mapping::shared(&file, 2 * FAR as usize);
    let doubts = usize::from(place.filesystem == "btrfs");
    Box::new(move |trace| {
        mapping.store(0, b'1');
        mapping.store(FAR as usize, b'1');
        // SAFETY: a page of the mapping, which stays as it is.
        let synced = unsafe { libc::msync(mapping.at(0).cast(), 4096, libc::MS_SYNC) };
        assert_eq!(synced, 0, "msync: {}", std::io::Error::last_os_error());
        for _ in 0..10 {
            file.write_at(b"2", FAR).expect("writing");
        }
        let events = trace.events();
        assert_eq!(about(&events, &path).len(), 1 + doubts, "{events:?}");
    })
}

fn check_event(event: &Value, file: &File, op: &str) {
    assert_eq!(event["op"], op, "{event}");
    assert_eq!(event["pre"], true, "{event}");
    assert_eq!(
        event["inode"],
        file.metadata().expect("fstat").ino(),
        "{event}"
    );
    assert_eq!(event["pid"], std::process::id(), "{event}");
    assert_eq!(event["schema"], 1, "{event}");
}

fn a_write_through_an_old_descriptor_makes_one_event_per_clean_period(place: &Place) -> Check {
    let path = place.file("data");
    let file = clean_file(&path);
    let same = file.try_clone().expect("dup");
    one_event_per_period(path, file, "write", move |round| {
        same.write_all_at(b"x", round % 16384).expect("pwrite");
    })
}

fn a_store_through_an_old_mapping_makes_one_event_per_clean_period(place: &Place) -> Check {
    let path = place.file("data");
    let file = clean_file(&path);
    let mut mapping = Mapping::shared(&file, 4 * 4096);
    mapping.store(0, b'1');
    file.sync_all().expect("fsync");
    one_event_per_period(path, file, "mmap", move |round| {
        // Another page each time: each faults, and none but the first is announced.
        mapping.store((round as usize * 4096 + 7) % (4 * 4096), round as u8);
    })
}

fn a_truncate_makes_one_event_per_clean_period(place: &Place) -> Check {
    let path = place.file("data");
    let file = clean_file(&path);
    let (name, same) = (path.clone(), file.try_clone().expect("dup"));
    one_event_per_period(path, file, "truncate", move |round| {
        // By descriptor and by name in turns, to sizes with and without a partial page.
        let size = 4096 * 2 + (round % 3) * 100;
        if round % 2 == 0 {
            same.set_len(size).expect("ftruncate");
        } else {
            truncate(&name, size);
        }
    })
}

fn truncate(path: &Path, size: u64) {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL byte");
    // SAFETY: a NUL-terminated path that lives through the call.
    let result = unsafe { libc::truncate(path.as_ptr(), size as i64) };
    assert_eq!(result, 0, "truncate: {}", std::io::Error::last_os_error());
}

fn an_open_with_o_trunc_makes_one_event_per_clean_period(place: &Place) -> Check {
    let path = place.file("data");
    let file = clean_file(&path);
    let name = path.clone();
    one_event_per_period(path, file, "truncate", move |_| {
        File::create(&name).expect("open with O_TRUNC");
    })
}

fn a_fallocate_makes_one_event_per_clean_period(place: &Place) -> Check {
    use rustix::fs::{FallocateFlags, fallocate};
    let path = place.file("data");
    let file = clean_file(&path);
    let same = file.try_clone().expect("dup");
    one_event_per_period(path, file, "fallocate", move |round| {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&same, punch, round % 4 * 4096, 4096).expect("punching a hole");
    })
}

fn direct_writes_make_one_event_per_sync(place: &Place) -> Check {
    let path = place.file("data");
    drop(clean_file(&path));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32)
        .open(&path)
        .expect("open with O_DIRECT");
    let memory = Mapping::aligned(4096);
    let same = file.try_clone().expect("dup");
    one_event_per_period(path, file, "write", move |round| {
        same.write_all_at(memory.bytes(), round % 4 * 4096)
            .expect("a direct write");
    })
}

/// Where the disk writes through, nobody syncs the file for `O_DSYNC`.
fn direct_writes_that_return_when_they_are_on_disk_make_one_event_each(place: &Place) -> Check {
    let path = place.file("data");
    let clean = clean_file(&path);
    let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits() as i32)
        .open(&path)
        .expect("open with O_DIRECT");
    let memory = Mapping::aligned(4096);
    let cache = disk_of(place).join("queue/write_cache");
    let filesystem = place.filesystem.clone();
    Box::new(move |trace| {
        let before = std::fs::read_to_string(&cache).expect("the disk's cache");
        for how in ["write through", before.trim()] {
            std::fs::write(&cache, how).expect("setting the disk's cache");
            clean.sync_all().expect("fsync");
            let _ = trace.events();
            for round in 0..4 {
                file.write_all_at(memory.bytes(), round * 4096)
                    .expect("a direct write");
            }
            let events = trace.events();
            let events = about(&events, &path);
            // btrfs makes them buffered writes from 6.14 on, which are looked at once more.
            let too_many = if filesystem == "btrfs" { 4 } else { 0 };
            assert!(
                (4..=4 + too_many).contains(&events.len()),
                "{how}: {events:?}"
            );
            assert!(
                events.iter().all(|event| event["pre"] == true),
                "{events:?}"
            );
        }
    })
}

/// Where the kernel shows the disk below the place.
fn disk_of(place: &Place) -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("the mounts");
    let disk = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|mount| place.directory.starts_with(mount[1]))
        .max_by_key(|mount| mount[1].len())
        .expect("a mount")[0];
    let name = disk.strip_prefix("/dev/").expect("a disk");
    Path::new("/sys/class/block").join(name)
}

fn sync_of_the_filesystem_ends_the_period_too(place: &Place) -> Check {
    let path = place.file("data");
    let file = clean_file(&path);
    Box::new(move |trace| {
        for _ in 0..3 {
            file.write_all_at(b"x", 0).expect("pwrite");
            rustix::fs::sync();
        }
        for _ in 0..2 {
            file.set_len(4096).expect("ftruncate");
            rustix::fs::syncfs(&file).expect("syncfs");
        }
        let events = trace.events();
        let ops: Vec<_> = about(&events, &path)
            .iter()
            .map(|event| event["op"].clone())
            .collect();
        assert_eq!(ops, ["write", "write", "write", "truncate", "truncate"]);
    })
}

fn a_write_into_a_reflink_copy_is_announced(place: &Place) -> Check {
    let source = place.file("source");
    let original = clean_file(&source);
    let path = place.file("copy");
    let copy = File::create(&path).expect("a new file");
    let has_reflinks = place.filesystem != "ext4";
    Box::new(move |trace| {
        let cloned = rustix::fs::ioctl_ficlone(&copy, &original);
        assert_eq!(cloned.is_ok(), has_reflinks, "{cloned:?}");
        copy.sync_all().expect("fsync");
        copy.write_all_at(b"x", 0).expect("pwrite");
        let events = trace.events();
        let ops: Vec<_> = about(&events, &path)
            .iter()
            .map(|event| event["op"].clone())
            .collect();
        assert_eq!(ops, ["clone", "write"]);
        assert!(
            about(&events, &source).is_empty(),
            "the source does not change"
        );
    })
}

fn changes_without_dirty_pages_are_announced_again_after_a_period(place: &Place) {
    let path = place.file("data");
    let file = clean_file(&path);
    let directory = place.directory.to_str().expect("a plain path");
    let mut trace = Trace::start_with(&place.directory, &["--period", "3", directory]);
    let mut seen = Vec::new();
    for _ in 0..2 {
        file.set_len(8192).expect("ftruncate");
        file.set_len(4096).expect("ftruncate");
        seen.push(about(&trace.events(), &path).len());
        std::thread::sleep(std::time::Duration::from_millis(3100));
    }
    assert_eq!(seen, [1, 1]);
    trace.end_cleanly();
}
