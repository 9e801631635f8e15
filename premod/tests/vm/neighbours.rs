//! Where a directory is is found once for all new files in it, and again whenever it may have changed.
//!
//! Each test writes a new file first, so that the directory is known to be outside, and another one after the change.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use crate::{
    harness::{Check, Place},
    maps::Inodes,
    paths::BindMount,
    tests,
    trace::{Trace, about, paths_of},
};

tests! {
    Shared new_files_of_a_directory_outside_take_no_memory,
    Shared a_new_file_is_where_its_directory_was_renamed_to,
    Shared a_new_file_is_where_its_mount_was_moved_to,
    Shared a_new_file_is_where_its_directory_was_mounted_last,
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

fn assert_silent(trace: &mut Trace) {
    assert_eq!(paths_of(&trace.events()), [""; 0].map(PathBuf::from));
}

fn new_files_of_a_directory_outside_take_no_memory(place: &Place) -> Check {
    let outside = place.outside.clone();
    Box::new(move |trace| {
        new_file(&outside.join("first"));
        let before = Inodes::find().entries();
        for number in 0..100 {
            new_file(&outside.join(format!("{number}")));
        }
        let more = Inodes::find().entries().saturating_sub(before);
        assert!(more < 10, "{more} of 100");
        assert_silent(trace);
    })
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

fn a_new_file_is_where_its_mount_was_moved_to(place: &Place) -> Check {
    let foreign = make(place.outside.join("foreign/deep"));
    let foreign = foreign.parent().expect("a parent").to_owned();
    let (here, there) = (make(place.outside.join("here")), make(place.file("there")));
    let mut mount = BindMount::new(&foreign, &here);
    Box::new(move |trace| {
        for round in 0..3 {
            new_file(&here.join(format!("deep/a{round}")));
            new_file(&here.join(format!("deep/b{round}")));
            assert_silent(trace);
            mount.move_to(&there);
            let new = there.join(format!("deep/c{round}"));
            new_file(&new);
            assert_eq!(paths_of(&trace.events()), [new]);
            mount.move_to(&here);
        }
        drop(mount);
    })
}

/// The kernel gives the memory of a mount that is gone to the next one.
fn a_new_file_is_where_its_directory_was_mounted_last(place: &Place) -> Check {
    let foreign = make(place.outside.join("foreign"));
    let (here, there) = (make(place.outside.join("here")), make(place.file("there")));
    Box::new(move |trace| {
        for round in 0..ROUNDS {
            let mount = BindMount::new(&foreign, &here);
            new_file(&here.join(format!("a{round}")));
            drop(mount);
            let mount = BindMount::new(&foreign, &there);
            let new = there.join(format!("b{round}"));
            new_file(&new);
            drop(mount);
            assert_eq!(about(&trace.events(), &new).len(), 1, "round {round}");
        }
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
