//! Where a directory is is found once for all new files in it, and again whenever it may have changed.
//!
//! Each test writes a new file first, so that the directory is known to be outside, and another one after the change.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    process::{Pid, Signal, kill_process},
};

use crate::{
    harness::{Check, Place},
    maps::Inodes,
    paths::BindMount,
    spin::{self, Gap},
    tests,
    trace::{Trace, about, paths_of},
};

tests! {
    Shared new_files_of_a_directory_outside_take_no_memory,
    Shared new_files_outside_take_no_memory_after_renames_of_directories,
    Shared a_new_file_is_where_its_directory_was_renamed_to,
    Shared a_new_file_is_inside_as_soon_as_its_directory_is,
    Shared a_new_file_is_where_its_mount_was_moved_to,
    Shared a_new_file_is_where_its_directory_was_mounted_last,
    Shared each_new_file_below_a_name_that_may_change_unseen_is_searched_for,
    Shared a_new_file_is_not_where_a_removed_directory_was,
    Shared a_file_with_a_name_inside_is_not_judged_by_its_neighbours,
    Shared a_file_that_has_lost_its_name_outside_is_not_judged_by_its_neighbours,
    Shared a_file_that_is_moved_while_it_is_first_written_says_nothing_of_its_neighbours,
}

/// How often each is done that depends on which memory the kernel gives away.
const ROUNDS: usize = 30;

fn new_file(path: &Path) {
    fs::write(path, "x").expect("a new file");
}

fn make(path: PathBuf) -> PathBuf {
    fs::create_dir_all(&path).expect("mkdir");
    path
}

pub(crate) fn assert_silent(trace: &mut Trace) {
    assert_eq!(paths_of(&trace.events()), [""; 0].map(PathBuf::from));
}

fn new_files_of_a_directory_outside_take_no_memory(place: &Place) -> Check {
    let outside = place.outside.clone();
    Box::new(move |trace| {
        assert_no_memory(&outside);
        assert_silent(trace);
    })
}

/// Whatever became of them: if the kernel side took one to be under way for good, each file would be searched for anew.
fn new_files_outside_take_no_memory_after_renames_of_directories(place: &Place) -> Check {
    let outside = place.outside.clone();
    let [one, other, full] = ["one", "other", "full/file"].map(|name| make(outside.join(name)));
    let full = full.parent().expect("a parent").to_owned();
    Box::new(move |trace| {
        fs::rename(&one, outside.join("new")).expect("renaming");
        fs::rename(outside.join("new"), &one).expect("renaming");
        assert_no_memory(&outside);
        renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).expect("renameat2");
        new_file(&outside.join("plain"));
        renameat_with(CWD, &one, CWD, outside.join("plain"), RenameFlags::EXCHANGE)
            .expect("renameat2");
        renameat_with(CWD, &one, CWD, outside.join("plain"), RenameFlags::EXCHANGE)
            .expect("renameat2");
        assert_no_memory(&outside);
        fs::rename(&one, &full).expect_err("in the place of one that is not empty");
        fs::rename(&one, &other).expect("in the place of one that is empty");
        assert_no_memory(&outside);
        assert_silent(trace);
    })
}

fn assert_no_memory(directory: &Path) {
    let more = entries_of_new_files(directory);
    assert!(more < 10, "{more} of 100");
}

/// How many entries 100 new files take, after the first one.
fn entries_of_new_files(directory: &Path) -> u64 {
    new_file(&directory.join("first"));
    let before = Inodes::find().entries();
    for number in 0..100 {
        let file = directory.join(format!("{number}"));
        let _ = fs::remove_file(&file);
        new_file(&file);
    }
    Inodes::find().entries().saturating_sub(before)
}

fn a_new_file_is_where_its_directory_was_renamed_to(place: &Place) -> Check {
    let (inside, outside) = (place.directory.clone(), place.outside.clone());
    let deep = make(outside.join("sub/deep"));
    Box::new(move |trace| {
        for number in 0..3 {
            new_file(&deep.join(format!("{number}")));
        }
        assert_silent(trace);
        fs::rename(outside.join("sub"), inside.join("sub")).expect("renaming");
        let new = ["a", "b"].map(|name| inside.join("sub/deep").join(name));
        new.iter().for_each(|path| new_file(path));
        assert_eq!(paths_of(&trace.events()), new);
        fs::rename(inside.join("sub"), outside.join("sub")).expect("renaming");
        new_file(&deep.join("c"));
        assert_silent(trace);
    })
}

/// The directory has moved, and the system call is not at its end: nobody has begun another epoch.
fn a_new_file_is_inside_as_soon_as_its_directory_is(place: &Place) -> Check {
    let [from, to] = [&place.outside, &place.directory].map(|above| above.join("sub"));
    make(from.join("deep"));
    Box::new(move |trace| {
        let patience = Duration::from_secs(4);
        let mut before = spin::open(Gap::Moving).with_limit(patience);
        let mut after = spin::open(Gap::Moved).with_limit(patience);
        new_file(&from.join("deep/a"));
        new_file(&from.join("deep/b"));
        assert_silent(trace);
        let new = to.join("deep/d");
        let during = from.join("deep/c");
        let mut held = before.hold(move || fs::rename(from, to).expect("renaming"));
        // Where this is found to be is no more true when the next one comes.
        new_file(&during);
        let moved = after.seize(held.tid, || held.go_on());
        new_file(&new);
        moved.release();
        held.wait();
        assert_eq!(paths_of(&trace.events()), [new]);
    })
}

fn a_new_file_is_where_its_mount_was_moved_to(place: &Place) -> Check {
    let foreign = make(place.outside.join("foreign/deep"));
    let foreign = foreign.parent().expect("a parent").to_owned();
    let (here, there) = (make(place.outside.join("here")), make(place.file("there")));
    let mut mount = BindMount::new(&foreign, &here);
    Box::new(move |trace| {
        let new = [0, 1, 2].map(|round| there.join(format!("deep/c{round}")));
        without_user_space(trace, || {
            for (round, new) in new.iter().enumerate() {
                new_file(&here.join(format!("deep/a{round}")));
                new_file(&here.join(format!("deep/b{round}")));
                mount.move_to(&there);
                new_file(new);
                mount.move_to(&here);
            }
        });
        drop(mount);
        assert_eq!(paths_of(&trace.events()), new);
    })
}

/// The kernel gives the memory of a mount that is gone to the next one.
fn a_new_file_is_where_its_directory_was_mounted_last(place: &Place) -> Check {
    let foreign = make(place.outside.join("foreign"));
    let (here, there) = (make(place.outside.join("here")), make(place.file("there")));
    Box::new(move |trace| {
        let name = |round| there.join(format!("b{round}"));
        without_user_space(trace, || {
            for round in 0..ROUNDS {
                let mount = BindMount::new(&foreign, &here);
                new_file(&here.join(format!("a{round}")));
                drop(mount);
                // The kernel waits before it gives the memory away.
                std::thread::sleep(Duration::from_millis(30));
                let mount = BindMount::new(&foreign, &there);
                new_file(&name(round));
                drop(mount);
            }
        });
        let events = trace.events();
        for round in 0..ROUNDS {
            assert_eq!(about(&events, &name(round)).len(), 1, "round {round}");
        }
    })
}

/// premod would notice a change of the mounts, and begin an epoch.
fn without_user_space(trace: &Trace, what: impl FnOnce()) {
    let premod = Pid::from_raw(trace.pid().cast_signed()).expect("an id");
    let send = |signal| kill_process(premod, signal).expect("premod runs");
    send(Signal::STOP);
    what();
    send(Signal::CONT);
}

/// /proc asks for each of its names again whenever it is used, as network filesystems do.
fn each_new_file_below_a_name_that_may_change_unseen_is_searched_for(place: &Place) -> Check {
    let outside = place.outside.clone();
    Box::new(move |trace| {
        let at = PathBuf::from(format!("/proc/{}/attr", std::process::id()));
        let mount = BindMount::new(&outside, &at);
        let more = entries_of_new_files(&at);
        drop(mount);
        assert!(more > 90, "{more} of 100");
        assert_silent(trace);
    })
}

/// The kernel gives memory and numbers that have become free away again at once.
fn a_new_file_is_not_where_a_removed_directory_was(place: &Place) -> Check {
    let (inside, outside) = (place.directory.clone(), place.outside.clone());
    Box::new(move |trace| {
        let mut wanted = Vec::new();
        for round in 0..ROUNDS {
            for above in [&outside, &inside] {
                let directory = make(above.join(format!("{round}")));
                new_file(&directory.join("a"));
                new_file(&directory.join("b"));
                fs::remove_dir_all(&directory).expect("removing");
            }
            wanted.extend(["a", "b"].map(|name| inside.join(format!("{round}")).join(name)));
        }
        assert_eq!(paths_of(&trace.events()), wanted);
    })
}

fn a_file_with_a_name_inside_is_not_judged_by_its_neighbours(place: &Place) -> Check {
    let (inside, outside) = (place.directory.clone(), place.outside.clone());
    let file = outside.join("linked");
    new_file(&file);
    fs::hard_link(&file, inside.join("linked")).expect("linking");
    Box::new(move |trace| {
        new_file(&outside.join("neighbour"));
        new_file(&outside.join("another"));
        assert_silent(trace);
        // The kernel has it in memory from now on, if other tests have made it forget.
        fs::metadata(inside.join("linked")).expect("looking up");
        fs::write(&file, "y").expect("writing");
        assert_eq!(paths_of(&trace.events()), [file]);
    })
}

fn a_file_that_has_lost_its_name_outside_is_not_judged_by_its_neighbours(place: &Place) -> Check {
    let (inside, outside) = (place.file("kept"), place.outside.clone());
    let lost = outside.join("lost");
    let mut file = File::create(&lost).expect("a new file");
    fs::hard_link(&lost, &inside).expect("linking");
    fs::remove_file(&lost).expect("unlinking");
    Box::new(move |trace| {
        new_file(&outside.join("neighbour"));
        new_file(&outside.join("another"));
        assert_silent(trace);
        // As above.
        fs::metadata(&inside).expect("looking up");
        file.write_all(b"y").expect("writing");
        assert_eq!(paths_of(&trace.events()), [inside]);
    })
}

/// The name moves out while it is decided where its directory is.
fn a_file_that_is_moved_while_it_is_first_written_says_nothing_of_its_neighbours(
    place: &Place,
) -> Check {
    let (inside, outside) = (place.directory.clone(), place.outside.clone());
    Box::new(move |trace| {
        let mut wanted = Vec::new();
        for round in 0..10 * ROUNDS {
            let [inside, outside] =
                [&inside, &outside].map(|above| make(above.join(format!("{round}"))));
            let mut file = File::create(inside.join("moved")).expect("a new file");
            std::thread::scope(|scope| {
                scope.spawn(|| file.write_all(b"x").expect("writing"));
                fs::rename(inside.join("moved"), outside.join("moved")).expect("renaming");
            });
            for name in ["a", "b"] {
                new_file(&outside.join(name));
                new_file(&inside.join(name));
                wanted.push(inside.join(name));
            }
        }
        let mut found = paths_of(&trace.events());
        found.retain(|path| !path.ends_with("moved"));
        assert_eq!(found, wanted);
    })
}
