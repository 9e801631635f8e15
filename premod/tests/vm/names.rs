//! A PATH is a name: whatever has it is traced, from its first modification on, and the stream says when that changes.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    harness::Place,
    paths::BindMount,
    tests,
    trace::{Trace, about, path_of},
};

tests! {
    Alone a_file_that_is_replaced_is_traced_from_the_first_change_on,
    Alone a_directory_made_anew_is_traced_from_the_first_change_on,
    Alone what_is_mounted_on_the_path_is_traced_from_the_first_change_on,
    Alone a_path_follows_its_symbolic_links,
    Alone a_link_is_watched_even_if_the_kernel_has_forgotten_its_directory,
    Alone a_path_that_is_gone_is_waited_for,
    Alone a_path_that_was_never_there_is_waited_for_if_asked on One,
    Alone a_missing_name_that_comes_as_a_link_is_followed_at_once,
    Alone nothing_is_missed_while_premod_follows_many_paths,
}

/// How often each is done: a moment that is missed shows in some of them.
const ROUNDS: usize = 50;

/// Long enough for premod to look at every PATH again.
const SETTLED: Duration = Duration::from_secs(2);

/// premod, tracing these and a directory of marks.
fn start(place: &Place, options: &[&str], paths: &[&Path]) -> Trace {
    let marks = place.file("marks");
    fs::create_dir(&marks).expect("mkdir");
    let mut arguments = options.to_vec();
    for path in paths.iter().copied().chain([marks.as_path()]) {
        arguments.push(path.to_str().expect("a plain path"));
    }
    Trace::start_with(&marks, &arguments)
}

fn is_change(record: &Value, path: &Path, change: &str) -> bool {
    record["type"] == "path" && record["change"] == change && path_of(record) == path
}

/// What a failed assertion has to say of the records.
fn told(records: &[Value]) -> String {
    let tell = |record: &Value| {
        let [kind, path, change] =
            ["type", "path", "change"].map(|field| record[field].to_string());
        format!("{kind} {path} {change}\n")
    };
    records.iter().map(tell).collect()
}

/// All records until this one has come.
fn until(trace: &mut Trace, path: &Path, change: &str) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut all = Vec::new();
    while !all.iter().any(|record| is_change(record, path, change)) {
        assert!(Instant::now() < deadline, "not {change}: {all:?}");
        std::thread::sleep(Duration::from_millis(50));
        all.extend(trace.events());
    }
    all
}

fn change(path: &Path) {
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(path)
        .expect("opening");
    file.write_all(b"x").expect("writing");
}

/// Changes the file and says how often that was announced.
fn announced(trace: &mut Trace, path: &Path) -> usize {
    rustix::fs::sync();
    let _ = trace.events();
    change(path);
    about(&trace.events(), path).len()
}

fn a_file_that_is_replaced_is_traced_from_the_first_change_on(place: &Place) {
    let (path, new) = (place.file("passwd"), place.file("passwd+"));
    let beside = place.file("group");
    for path in [&path, &beside] {
        fs::write(path, "x").expect("a new file");
    }
    let mut trace = start(place, &[], &[&path]);
    let mut old = File::options().append(true).open(&path).expect("open");
    for round in 0..ROUNDS {
        change(&new);
        fs::rename(&new, &path).expect("renaming");
        change(&path);
        if round % 10 == 9 {
            std::thread::sleep(Duration::from_millis(150));
        }
    }
    let records = until(&mut trace, &path, "replaced");
    assert_eq!(about(&records, &path).len(), ROUNDS, "{records:?}");
    assert!(about(&records, &new).is_empty(), "{records:?}");

    std::thread::sleep(SETTLED);
    let _ = trace.events();
    assert_eq!(announced(&mut trace, &beside), 0);
    assert_eq!(announced(&mut trace, &path), 1);
    // What had the name before is nobody's business any more, even by the name it had last.
    old.write_all(b"x").expect("writing");
    let records = trace.events();
    assert!(records.is_empty(), "{records:?}");
    trace.end_cleanly();
}

fn a_directory_made_anew_is_traced_from_the_first_change_on(place: &Place) {
    let above = place.file("srv");
    let path = above.join("app/db");
    let beside = above.join("app/other");
    fs::create_dir_all(&path).expect("mkdir");
    let mut trace = start(place, &[], &[&path]);
    for round in 0..ROUNDS {
        // Itself, or one of those above.
        let (moved, new) = match round % 3 {
            0 => (path.clone(), path.clone()),
            1 => (above.join("app"), path.clone()),
            _ => (above.clone(), path.clone()),
        };
        fs::rename(&moved, place.file(&format!("old{round}"))).expect("renaming");
        fs::create_dir_all(&new).expect("mkdir");
        fs::write(path.join("data"), "x").expect("a new file");
        if round % 10 == 9 {
            std::thread::sleep(Duration::from_millis(150));
        }
    }
    let records = until(&mut trace, &path, "replaced");
    assert_eq!(
        about(&records, &path.join("data")).len(),
        ROUNDS,
        "{}",
        told(&records)
    );

    // When premod has looked, it is known again what is outside.
    std::thread::sleep(SETTLED);
    let _ = trace.events();
    assert_eq!(announced(&mut trace, &beside), 0);
    assert_eq!(announced(&mut trace, &place.file("old0/data")), 0);
    assert_eq!(announced(&mut trace, &path.join("data")), 1);
    trace.end_cleanly();
}

fn what_is_mounted_on_the_path_is_traced_from_the_first_change_on(place: &Place) {
    let above = place.file("srv");
    let path = above.join("db");
    let (foreign, other) = (place.outside.join("foreign"), place.outside.join("other"));
    for directory in [&path, &foreign, &other.join("db")] {
        fs::create_dir_all(directory).expect("mkdir");
    }
    let mut trace = start(place, &[], &[&path]);
    let mut wanted = 0;
    for round in 0..ROUNDS {
        // On the PATH, or on the directory above.
        let mount = match round % 2 {
            0 => BindMount::new(&foreign, &path),
            _ => BindMount::new(&other, &above),
        };
        fs::write(path.join(format!("{round}")), "x").expect("writing");
        wanted += 1;
        if round % 10 == 9 {
            std::thread::sleep(Duration::from_millis(150));
            fs::write(path.join(format!("{round}+")), "x").expect("writing");
            wanted += 1;
        }
        drop(mount);
        fs::write(path.join(format!("{round}-")), "x").expect("writing");
        wanted += 1;
    }
    let records = until(&mut trace, &path, "replaced");
    let events = records.iter().filter(|record| {
        record["type"] == "first_dirty" && path_of(record).parent() == Some(path.as_path())
    });
    assert_eq!(events.count(), wanted, "{records:?}");
    std::thread::sleep(SETTLED);
    let _ = trace.events();
    assert_eq!(announced(&mut trace, &foreign.join("0")), 0);
    assert_eq!(announced(&mut trace, &above.join("beside")), 0);
    assert_eq!(announced(&mut trace, &path.join("0-")), 1);
    trace.end_cleanly();
}

fn a_path_follows_its_symbolic_links(place: &Place) {
    let [one, two] = ["v1", "v2"].map(|name| place.file(name));
    let (current, new) = (place.file("current"), place.file("current+"));
    for version in [&one, &two] {
        fs::create_dir_all(version.join("db")).expect("mkdir");
        fs::write(version.join("db/heap"), "x").expect("a new file");
    }
    symlink("v1", &current).expect("a link");
    let path = current.join("db");
    let mut trace = start(place, &[], &[&path]);
    let heaps = [one.join("db/heap"), two.join("db/heap")];
    assert_eq!(announced(&mut trace, &heaps[0]), 1);
    assert_eq!(announced(&mut trace, &heaps[1]), 0);

    // At once, by rename and by hand.
    for round in 1..ROUNDS {
        if round % 2 == 0 {
            fs::remove_file(&current).expect("unlinking");
            symlink(format!("v{}", 1 + round % 2), &current).expect("a link");
        } else {
            symlink(format!("v{}", 1 + round % 2), &new).expect("a link");
            fs::rename(&new, &current).expect("renaming");
        }
        let heap = &heaps[round % 2];
        File::open(heap)
            .and_then(|file| file.sync_all())
            .expect("fsync");
        change(heap);
        let records = trace.events();
        assert_eq!(about(&records, heap).len(), 1, "round {round}: {records:?}");
        if round % 10 == 9 {
            std::thread::sleep(Duration::from_millis(150));
        }
    }
    std::thread::sleep(SETTLED);
    let _ = trace.events();
    assert_eq!(announced(&mut trace, &heaps[0]), 0);
    assert_eq!(announced(&mut trace, &heaps[1]), 1);
    symlink("v1", &new).expect("a link");
    fs::rename(&new, &current).expect("renaming");
    until(&mut trace, &path, "replaced");
    assert_eq!(announced(&mut trace, &heaps[0]), 1);
    assert_eq!(announced(&mut trace, &heaps[1]), 0);

    fs::remove_file(&current).expect("unlinking");
    until(&mut trace, &path, "gone");
    symlink("v2", &current).expect("a link");
    until(&mut trace, &path, "back");
    assert_eq!(announced(&mut trace, &heaps[1]), 1);
    trace.end_cleanly();
}

fn a_link_is_watched_even_if_the_kernel_has_forgotten_its_directory(place: &Place) {
    let links = place.file("links/deep");
    let (current, new) = (links.join("current"), links.join("new"));
    let heaps = ["v1", "v2"].map(|name| place.file(name).join("heap"));
    for heap in &heaps {
        fs::create_dir(heap.parent().expect("a directory")).expect("mkdir");
        fs::write(heap, "x").expect("a new file");
    }
    fs::create_dir_all(&links).expect("mkdir");
    for (link, version) in [(&current, "v1"), (&new, "v2")] {
        symlink(place.file(version), link).expect("a link");
    }
    let mut trace = start(place, &[], &[&current]);
    assert_eq!(announced(&mut trace, &heaps[0]), 1);
    // Nothing keeps the directory in memory but premod.
    for _ in 0..5 {
        rustix::fs::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").expect("root may do that");
    }
    // And premod has no time to look.
    let premod = rustix::process::Pid::from_raw(trace.pid().cast_signed()).expect("an id");
    let send = |signal| rustix::process::kill_process(premod, signal).expect("premod runs");
    send(rustix::process::Signal::STOP);
    fs::rename(&new, &current).expect("renaming");
    change(&heaps[1]);
    send(rustix::process::Signal::CONT);
    let records = until(&mut trace, &current, "replaced");
    assert_eq!(about(&records, &heaps[1]).len(), 1, "{records:?}");
    trace.end_cleanly();
}

fn a_path_that_is_gone_is_waited_for(place: &Place) {
    let above = place.file("srv");
    let path = above.join("db/heap");
    fs::create_dir_all(above.join("db")).expect("mkdir");
    fs::write(&path, "x").expect("a new file");
    let mut trace = start(place, &[], &[&path]);
    for round in 0..3 {
        match round {
            0 => fs::remove_file(&path).expect("unlinking"),
            1 => fs::remove_dir_all(&above).expect("rm -r"),
            _ => fs::rename(&above, place.file("moved")).expect("renaming"),
        }
        until(&mut trace, &path, "gone");
        fs::create_dir_all(above.join("db")).expect("mkdir");
        fs::write(&path, "x").expect("a new file");
        let records = until(&mut trace, &path, "back");
        assert_eq!(about(&records, &path).len(), 1, "{records:?}");
    }
    assert_eq!(announced(&mut trace, &place.file("moved/db/heap")), 0);
    trace.end_cleanly();
}

fn a_path_that_was_never_there_is_waited_for_if_asked(place: &Place) {
    let path = place.file("later/db");
    let mut trace = start(place, &["--wait"], &[&path]);
    fs::create_dir_all(&path).expect("mkdir");
    fs::write(path.join("heap"), "x").expect("a new file");
    let records = until(&mut trace, &path, "back");
    assert_eq!(about(&records, &path.join("heap")).len(), 1, "{records:?}");
    let ended = trace.end();
    let waits = format!("premod: {} does not exist yet", path.display());
    assert!(ended.stderr.contains(&waits), "{}", ended.stderr);
}

fn a_missing_name_that_comes_as_a_link_is_followed_at_once(place: &Place) {
    let real = place.file("real");
    fs::create_dir_all(real.join("db")).expect("mkdir");
    let heap = real.join("db/heap");
    fs::write(&heap, "x").expect("a new file");
    let (link, new) = (place.file("current"), place.file("current+"));
    let path = link.join("db");
    let mut trace = start(place, &["--wait"], &[&path]);
    for round in 0..10 {
        File::open(&heap)
            .and_then(|file| file.sync_all())
            .expect("fsync");
        if round % 2 == 0 {
            symlink(&real, &link).expect("a link");
        } else {
            symlink(&real, &new).expect("a link");
            fs::rename(&new, &link).expect("renaming");
        }
        change(&heap);
        let records = until(&mut trace, &path, "back");
        assert_eq!(about(&records, &heap).len(), 1, "{}", told(&records));
        fs::remove_file(&link).expect("unlinking");
        until(&mut trace, &path, "gone");
    }
    trace.end_cleanly();
}

/// So many PATHs that the maps are neither old nor new for a while, in which some files are written.
const MANY: usize = 300;

fn nothing_is_missed_while_premod_follows_many_paths(place: &Place) {
    let above = place.file("app");
    let names: Vec<_> = (0..MANY).map(|index| format!("db{index}")).collect();
    let paths: Vec<_> = names.iter().map(|name| above.join(name)).collect();
    let make = |directory: &Path| {
        for name in &names {
            fs::create_dir_all(directory.join(name)).expect("mkdir");
        }
    };
    make(&above);
    let given: Vec<_> = paths.iter().map(PathBuf::as_path).collect();
    let mut trace = start(place, &[], &given);
    for round in 0..3 {
        let new = place.file("new");
        make(&new);
        fs::rename(&above, place.file(&format!("old{round}"))).expect("renaming");
        fs::rename(&new, &above).expect("renaming");
        let (mut written, mut records) = (0, Vec::new());
        let deadline = Instant::now() + Duration::from_secs(60);
        let is_last = |record: &Value| is_change(record, &paths[MANY - 1], "replaced");
        while !records.iter().any(is_last) {
            assert!(Instant::now() < deadline, "{}", told(&records));
            for _ in 0..MANY {
                let file = paths[written % MANY].join(format!("{round}-{written}"));
                fs::write(file, "x").expect("a new file");
                written += 1;
            }
            records.extend(trace.events());
        }
        for index in 0..written {
            let file = paths[index % MANY].join(format!("{round}-{index}"));
            assert_eq!(about(&records, &file).len(), 1, "{index} of {written}");
        }
    }
    trace.end_cleanly();
}
