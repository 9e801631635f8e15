//! An inode is taken for no other: state is never inherited, and an event never missing because of it.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    coverage::dedupe,
    harness::{Check, Place},
    maps::Inodes,
    tests,
    tools::run,
    trace::{Trace, about, paths_of},
};

tests! {
    Shared a_new_file_with_an_old_inode_number_is_announced,
    Shared an_inode_read_back_from_disk_is_announced,
    Shared a_filesystem_mounted_again_is_announced_anew,
    Shared equal_inode_numbers_on_two_filesystems_are_told_apart,
    Shared a_btrfs_snapshot_is_told_apart_from_its_subvolume,
    Shared a_file_linked_into_the_directory_that_loses_its_old_name_belongs_to_it,
    Shared a_write_after_a_deduplication_is_announced,
    Alone deleted_files_leave_nothing_in_the_kernel,
}

/// Has the kernel forget every inode that nobody uses. It spares those used lately at first.
fn drop_caches() {
    rustix::fs::sync();
    for _ in 0..4 {
        fs::write("/proc/sys/vm/drop_caches", "3").expect("drop_caches");
    }
}

fn a_new_file_with_an_old_inode_number_is_announced(place: &Place) -> Check {
    const LIVES: usize = 20;
    let path = place.file("data");
    let reuses = place.filesystem != "btrfs";
    Box::new(move |trace| {
        let mut numbers = Vec::new();
        for _ in 0..LIVES {
            // Deleted while it is dirty: whoever takes its number must not inherit that.
            fs::write(&path, "x").expect("a new file");
            numbers.push(fs::metadata(&path).expect("stat").ino());
            fs::remove_file(&path).expect("unlink");
            // xfs frees inodes in the background.
            rustix::fs::sync();
        }
        let events = trace.events();
        assert_eq!(
            about(&events, &path).len(),
            LIVES,
            "one event for each life"
        );
        let first = about(&events, &path)[0];
        assert!(
            events.iter().all(|event| event["generation"] == 1),
            "{events:?}"
        );
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(
            numbers.len() < LIVES,
            reuses,
            "{} gives numbers again: {first}",
            if reuses { "it" } else { "btrfs never" }
        );
    })
}

fn an_inode_read_back_from_disk_is_announced(place: &Place) -> Check {
    let path = place.file("data");
    fs::write(&path, "x").expect("a new file");
    Box::new(move |trace| {
        let change = || {
            let file = File::options().write(true).open(&path).expect("open");
            file.write_all_at(b"y", 0).expect("pwrite");
        };
        let mut evicted = 0;
        for round in 0..5 {
            change();
            // Evicted while premod knows it as announced.
            drop_caches();
            change();
            let events = trace.events();
            let seen = about(&events, &path);
            assert_eq!(seen.len(), 2, "round {round}: {events:?}");
            // A new life counts from the beginning. 6.1 does not always let go of the inode.
            evicted += u32::from(seen[1]["generation"] == 1);
            drop_caches();
        }
        assert!(evicted > 0, "it was never evicted");
    })
}

/// A small ext4 image.
fn image(place: &Place) -> PathBuf {
    let image = place.outside.join("image");
    File::create(&image)
        .and_then(|file| file.set_len(8 << 20))
        .expect("a new file");
    run("mkfs.ext4", &["-q", text(&image)]);
    image
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn mount(image: &Path, at: &Path) {
    run("modprobe", &["loop"]);
    run(
        "mount",
        &["-t", "ext4", "-o", "loop", text(image), text(at)],
    );
}

fn a_filesystem_mounted_again_is_announced_anew(place: &Place) -> Check {
    let (image, mounted) = (image(place), place.file("mounted"));
    fs::create_dir(&mounted).expect("mkdir");
    mount(&image, &mounted);
    let path = mounted.join("data");
    fs::write(&path, "x").expect("a new file");
    Box::new(move |trace| {
        for _ in 0..3 {
            fs::write(&path, "y").expect("writing");
            let events = trace.events();
            assert_eq!(about(&events, &path).len(), 1, "{events:?}");
            unmount(&mounted);
            mount(&image, &mounted);
        }
    })
}

/// Unmounts, as soon as premod has looked at what was mounted.
fn unmount(mounted: &Path) {
    use rustix::{io::Errno, mount::UnmountFlags};
    for _ in 0..100 {
        match rustix::mount::unmount(mounted, UnmountFlags::empty()) {
            Err(Errno::BUSY) => std::thread::sleep(std::time::Duration::from_millis(50)),
            result => return result.expect("umount"),
        }
    }
    panic!("{} stays busy", mounted.display());
}

fn equal_inode_numbers_on_two_filesystems_are_told_apart(place: &Place) -> Check {
    let image = image(place);
    let copy = image.with_extension("copy");
    let mounted = ["one", "two"].map(|name| place.file(name));
    for directory in &mounted {
        fs::create_dir(directory).expect("mkdir");
    }
    mount(&image, &mounted[0]);
    fs::write(mounted[0].join("data"), "x").expect("a new file");
    run("umount", &[text(&mounted[0])]);
    fs::copy(&image, &copy).expect("copying");
    mount(&image, &mounted[0]);
    mount(&copy, &mounted[1]);
    let paths = mounted.map(|directory| directory.join("data"));
    Box::new(move |trace| {
        let same = |of: fn(&fs::Metadata) -> u64| {
            let [one, two] = paths
                .each_ref()
                .map(|path| fs::metadata(path).expect("stat"));
            of(&one) == of(&two)
        };
        assert!(same(MetadataExt::ino) && !same(MetadataExt::dev));
        for path in &paths {
            fs::write(path, "y").expect("writing");
            fs::write(path, "z").expect("writing");
        }
        let events = trace.events();
        assert_eq!(paths_of(&events), paths);
        assert_eq!(events[0]["inode"], events[1]["inode"]);
        assert_eq!(events[0]["igen"], events[1]["igen"]);
        assert_ne!(events[0]["device"], events[1]["device"]);
    })
}

fn a_btrfs_snapshot_is_told_apart_from_its_subvolume(place: &Place) -> Check {
    let (subvolume, snapshot) = (place.file("subvolume"), place.file("snapshot"));
    if place.filesystem == "btrfs" {
        run("btrfs", &["-q", "subvolume", "create", text(&subvolume)]);
        fs::write(subvolume.join("data"), "x").expect("a new file");
    }
    let is_btrfs = place.filesystem == "btrfs";
    Box::new(move |trace| {
        if !is_btrfs {
            // The others have no subvolumes; the test is about btrfs alone.
            return;
        }
        let paths = [subvolume.join("data"), snapshot.join("data")];
        let keep = File::options().write(true).open(&paths[0]).expect("open");
        keep.write_all_at(b"y", 0).expect("pwrite");
        let command = [
            "-q",
            "subvolume",
            "snapshot",
            text(&subvolume),
            text(&snapshot),
        ];
        run("btrfs", &command);
        // The snapshot's inode is another one, though everything that stat says of it is the same.
        for path in &paths {
            let file = File::options().write(true).open(path).expect("open");
            file.write_all_at(b"z", 0).expect("pwrite");
            file.write_all_at(b"z", 1).expect("pwrite");
        }
        let events = trace.events();
        assert_eq!(about(&events, &paths[1]).len(), 1, "{events:?}");
        // Making the snapshot wrote the subvolume's data back.
        let announced = about(&events, &paths[0]);
        assert_eq!(announced.len(), 2, "{events:?}");
        assert_eq!(announced[0]["inode"], about(&events, &paths[1])[0]["inode"]);
    })
}

fn a_file_linked_into_the_directory_that_loses_its_old_name_belongs_to_it(place: &Place) -> Check {
    let (inside, outside) = (place.file("linked"), place.outside.join("linked"));
    let mut file = File::create(&outside).expect("a new file");
    Box::new(move |trace| {
        // Decided as outside, by the only name …
        file.write_all(b"x").expect("writing");
        rustix::fs::sync();
        assert_eq!(paths_of(&trace.events()), [""; 0].map(PathBuf::from));
        // … which it then exchanges for another.
        fs::hard_link(&outside, &inside).expect("link");
        fs::remove_file(&outside).expect("unlink");
        file.write_all(b"y").expect("writing");
        let events = trace.events();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["inode"], file.metadata().expect("fstat").ino());
    })
}

fn a_write_after_a_deduplication_is_announced(place: &Place) -> Check {
    let (one, two) = (place.file("one"), place.file("two"));
    for path in [&one, &two] {
        fs::write(path, [b'x'; 8192]).expect("a new file");
    }
    let open = |path| {
        File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("open")
    };
    let (source, target) = (open(&one), open(&two));
    let has_reflinks = place.filesystem != "ext4";
    Box::new(move |trace| {
        if !has_reflinks {
            // ext4 cannot share blocks: docs/coverage.md says so.
            return;
        }
        for round in 0..3 {
            dedupe(&source, &target, 0);
            assert_eq!(paths_of(&trace.events()), [""; 0].map(PathBuf::from));
            target.write_all_at(b"y", 5000 + round).expect("pwrite");
            assert_eq!(paths_of(&trace.events()), std::slice::from_ref(&two));
            target.write_all_at(b"y", 5100 + round).expect("pwrite");
            target.sync_all().expect("fsync");
        }
    })
}

fn deleted_files_leave_nothing_in_the_kernel(place: &Place) {
    const TIMES: usize = 4;
    const AT_A_TIME: usize = 1_500;
    let mut trace = Trace::start(&place.directory);
    let inodes = Inodes::find();
    let before = inodes.entries();
    let mut highest = (0, 0);
    for _ in 0..TIMES {
        let paths: Vec<PathBuf> = (0..AT_A_TIME)
            .map(|number| place.file(&number.to_string()))
            .collect();
        for path in &paths {
            fs::write(path, "x").expect("a new file");
        }
        highest = highest.max((inodes.entries(), inodes.memory()));
        for path in &paths {
            fs::remove_file(path).expect("unlink");
        }
        assert_eq!(trace.events().len(), AT_A_TIME);
    }
    let after = inodes.entries();
    eprintln!("{before} entries before, {highest:?} entries and bytes at most, {after} after");
    assert!(highest.0 >= AT_A_TIME as u64, "{highest:?}");
    // What is left is what the test's own files have.
    assert!(after < before + 50, "{before} before, {after} after");
    trace.end_cleanly();
}
