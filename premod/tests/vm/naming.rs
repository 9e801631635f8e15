//! A file is inside as soon as a name is, and not when the system call that has given it that name, or taken another, ends.
//!
//! Each file is known to be outside before.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    harness::{Check, Place},
    neighbours::assert_silent,
    spin::{self, Gap},
    tests,
    trace::{Trace, paths_of},
    workload::Mapping,
};

tests! {
    Shared a_file_is_inside_as_soon_as_it_has_been_renamed,
    Shared a_file_is_inside_as_soon_as_it_has_been_linked_to,
    Shared a_file_that_loses_its_name_outside_is_where_the_other_one_is,
}

const PAGE: usize = 4096;
const PAGES: usize = 3;
/// How far they lie apart: a store makes all of a large folio writable.
const APART: usize = 4 << 20;
/// Longer than what is done meanwhile takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(4);

fn names(place: &Place) -> [PathBuf; 2] {
    [&place.outside, &place.directory].map(|directory| directory.join("file"))
}

/// Writes to a file that is there.
fn write(path: &Path) {
    File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(b"y"))
        .expect("writing");
}

/// Makes it known that the file is outside.
fn known_outside(path: &Path, trace: &mut Trace) {
    fs::write(path, "x").expect("a new file");
    write(path);
    write(path);
    assert_silent(trace);
}

/// A mapping of a file that is known to be outside: stores to it wait for no lock of the inode, which renames and links hold.
fn mapped(name: &Path, trace: &mut Trace) -> Mapping {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(name);
    let file = file.expect("a new file");
    for page in 0..PAGES {
        file.write_all_at(&[b'x'; PAGE], (page * APART) as u64)
            .expect("writing");
    }
    file.sync_all().expect("fsync");
    let mut mapping = Mapping::shared(&file, PAGES * APART);
    mapping.store(0, b'y');
    assert_silent(trace);
    mapping
}

fn a_file_is_inside_as_soon_as_it_has_been_renamed(place: &Place) -> Check {
    let [from, to] = names(place);
    Box::new(move |trace| {
        let mut before = spin::open(Gap::Moving).with_limit(PATIENCE);
        let mut after = spin::open(Gap::Moved).with_limit(PATIENCE);
        let mut mapping = mapped(&from, trace);
        let name = to.clone();
        let mut held = before.hold(move || fs::rename(from, name).expect("renaming"));
        // Where it is found to be now is no more true when the next one comes.
        mapping.store(APART, b'y');
        let moved = after.seize(held.tid, || held.go_on());
        mapping.store(2 * APART, b'y');
        moved.release();
        held.wait();
        assert_eq!(paths_of(&trace.events()), [to]);
    })
}

fn a_file_is_inside_as_soon_as_it_has_been_linked_to(place: &Place) -> Check {
    let [old, new] = names(place);
    Box::new(move |trace| {
        let mut linked = spin::open(Gap::Linked).with_limit(PATIENCE);
        let mut mapping = mapped(&old, trace);
        let name = new.clone();
        let held = linked.hold(move || fs::hard_link(old, name).expect("linking"));
        assert_eq!(fs::metadata(&new).expect("it has its new name").nlink(), 2);
        mapping.store(APART, b'y');
        held.release();
        assert_eq!(trace.events().len(), 1);
    })
}

fn a_file_that_loses_its_name_outside_is_where_the_other_one_is(place: &Place) -> Check {
    let [outside, inside] = names(place);
    Box::new(move |trace| {
        for inside_is_in_memory in [true, false] {
            let mut unlinking = spin::open(Gap::Unlinking).with_limit(PATIENCE);
            known_outside(&outside, trace);
            fs::hard_link(&outside, &inside).expect("linking");
            let mut file = File::options().write(true).open(&outside).expect("opening");
            if !inside_is_in_memory {
                rustix::fs::sync();
                fs::write("/proc/sys/vm/drop_caches", "2").expect("root may do that");
            }
            let name = outside.clone();
            let held = unlinking.hold(move || fs::remove_file(name).expect("unlinking"));
            file.write_all(b"z").expect("writing");
            held.release();
            if !inside_is_in_memory {
                write(&inside);
            }
            assert_eq!(trace.events().len(), 1, "in memory: {inside_is_in_memory}");
            fs::remove_file(&inside).expect("unlinking");
        }
    })
}
