//! A directory's path is told once for all files in it, and again whenever it may have changed.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use crate::{
    harness::{Check, Place},
    paths::BindMount,
    tests,
    trace::{path_of, paths_of},
    workload::now,
};

tests! {
    on Every;
    Shared a_file_is_named_by_what_its_directories_are_called_now,
    Shared another_directory_in_place_of_one_that_was_removed_is_told_anew,
    Shared a_mount_that_is_moved_takes_its_directories_along,
    Shared a_directory_renamed_meanwhile_has_one_of_the_names_it_had,
}

/// Files are open from the beginning, so that only their directories' names change.
fn a_file_is_named_by_what_its_directories_are_called_now(place: &Place) -> Check {
    let (one, two) = (place.file("one/deep/er"), place.file("two"));
    fs::create_dir_all(&one).expect("mkdir");
    fs::create_dir(&two).expect("mkdir");
    let mut files: Vec<File> = ["a", "b", "c", "d"]
        .map(|name| File::create(one.join(name)).expect("a new file"))
        .into();
    let top = place.directory.clone();
    Box::new(move |trace| {
        let mut wanted = Vec::new();
        let mut write = |directory: &str, name: &str| {
            files.remove(0).write_all(b"x").expect("writing");
            wanted.push(top.join(directory).join(name));
        };
        write("one/deep/er", "a");
        fs::rename(top.join("one/deep/er"), top.join("one/deep/est")).expect("rename");
        write("one/deep/est", "b");
        // One far above, and into another directory.
        fs::rename(top.join("one"), top.join("two/one")).expect("rename");
        write("two/one/deep/est", "c");
        fs::create_dir_all(top.join("three/deep")).expect("mkdir");
        let (here, there) = (top.join("two/one"), top.join("three"));
        renameat_with(CWD, &here, CWD, &there, RenameFlags::EXCHANGE).expect("renameat2");
        write("three/deep/est", "d");
        assert_eq!(paths_of(&trace.events()), wanted);
    })
}

fn another_directory_in_place_of_one_that_was_removed_is_told_anew(place: &Place) -> Check {
    let top = place.directory.clone();
    Box::new(move |trace| {
        let mut wanted = Vec::new();
        // The kernel gives memory and numbers that have become free away again at once.
        for round in 0..20 {
            let directory = top.join(format!("directory-{round}"));
            fs::create_dir(&directory).expect("mkdir");
            fs::write(directory.join("file"), "x").expect("writing");
            wanted.push(directory.join("file"));
            fs::remove_dir_all(&directory).expect("removing");
        }
        assert_eq!(paths_of(&trace.events()), wanted);
    })
}

fn a_mount_that_is_moved_takes_its_directories_along(place: &Place) -> Check {
    let (foreign, here, there) = (
        place.outside.join("foreign"),
        place.file("here"),
        place.file("there"),
    );
    for directory in [&foreign.join("sub"), &here, &there] {
        fs::create_dir_all(directory).expect("mkdir");
    }
    let mut mounted = BindMount::new(&foreign, &here);
    let mut files =
        ["a", "b"].map(|name| File::create(here.join("sub").join(name)).expect("a new file"));
    Box::new(move |trace| {
        files[0].write_all(b"x").expect("writing");
        mounted.move_to(&there);
        files[1].write_all(b"x").expect("writing");
        let wanted = [here.join("sub/a"), there.join("sub/b")];
        assert_eq!(paths_of(&trace.events()), wanted);
        drop((files, mounted));
    })
}

/// A directory's name from when it may have been the one to when it may still have been.
struct Called {
    path: PathBuf,
    from: u64,
    to: u64,
}

impl Called {
    /// Whether this is the directory that an event names. If the kernel skips the program that knows the mount, a hook on
    /// the page tells the path inside of the filesystem; if the CPU that renames stands still meanwhile, as those of a
    /// virtual machine may, the path is cut.
    fn is(&self, directory: &Path, event: &Value) -> bool {
        if event["path_in_fs"] == true || event["path_cut"] == true {
            let last = directory.strip_prefix("/").unwrap_or(directory);
            self.path.ends_with(last)
        } else {
            self.path == directory
        }
    }
}

fn a_directory_renamed_meanwhile_has_one_of_the_names_it_had(place: &Place) -> Check {
    const FILES: usize = 40;
    let names = [
        "short",
        "a-name-that-is-too-long-to-lie-within-the-dentry-itself",
    ]
    .map(|name| place.file(name).join("sub"));
    fs::create_dir_all(&names[0]).expect("mkdir");
    let files: Vec<File> = (0..FILES)
        .map(|number| File::create(names[0].join(number.to_string())).expect("a new file"))
        .collect();
    Box::new(move |trace| {
        let done = Arc::new(AtomicBool::new(false));
        let renamer = thread::spawn({
            let (done, names) = (Arc::clone(&done), names.clone());
            move || rename_to_and_fro(&names, &done)
        });
        let mut written = Vec::new();
        for mut file in files {
            let began = now();
            file.write_all(b"x").expect("writing");
            written.push((began, now()));
            thread::sleep(Duration::from_millis(1));
        }
        done.store(true, Ordering::Relaxed);
        let called = renamer.join().expect("the renamer");
        let events = trace.events();
        assert_eq!(events.len(), FILES);
        for (event, (began, ended)) in events.iter().zip(written) {
            let path = path_of(event);
            let directory = path.parent().expect("a directory");
            assert!(
                called.iter().any(|called| called.is(directory, event)
                    && called.from <= ended
                    && began <= called.to),
                "{event}: written from {began} to {ended}"
            );
        }
    })
}

/// Renames the directories above between the two names, and says when each was the one.
fn rename_to_and_fro(names: &[PathBuf; 2], done: &AtomicBool) -> Vec<Called> {
    let above = |path: &PathBuf| path.parent().map(Path::to_owned).expect("a parent");
    let (mut called, mut from, mut turn) = (Vec::new(), 0, 0);
    while !done.load(Ordering::Relaxed) {
        let (old, new) = (&names[turn % 2], &names[(turn + 1) % 2]);
        let began = now();
        fs::rename(above(old), above(new)).expect("rename");
        called.push(Called {
            path: old.clone(),
            from,
            to: now(),
        });
        (from, turn) = (began, turn + 1);
        thread::sleep(Duration::from_millis(1));
    }
    called.push(Called {
        path: names[turn % 2].clone(),
        from,
        to: u64::MAX,
    });
    called
}
