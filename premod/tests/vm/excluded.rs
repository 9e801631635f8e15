//! `--exclude` is decided by where a file is, not by a name that whoever modifies it has chosen.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use crate::{
    harness::Place,
    paths::BindMount,
    tests,
    tools::run,
    trace::{Trace, path_of, paths_of},
};

tests! {
    Alone a_directory_is_left_out_by_whatever_path,
    Alone no_mount_of_others_leaves_anything_out,
    Alone a_file_is_left_out_with_all_its_names_only,
    Alone a_file_with_a_name_that_the_kernel_does_not_know_is_not_left_out,
    Alone without_a_path_everything_else_is_traced,
    Alone a_filesystem_below_is_left_out_if_it_is_mounted_nowhere_else,
    Alone a_place_is_whatever_has_its_name_now,
    Alone what_a_place_is_made_to_lead_to_is_not_left_out,
}

/// Time enough for premod to have looked at names and mounts again.
const LOOKED: Duration = Duration::from_secs(1);

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Directories below the test's own.
fn directories<const N: usize>(place: &Place, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| {
        let path = place.file(name);
        fs::create_dir_all(&path).expect("mkdir");
        path
    })
}

/// Writes, so that the file is clean afterwards.
fn write(path: &Path) {
    fs::write(path, "x").expect("writing");
    File::open(path)
        .and_then(|file| file.sync_all())
        .expect("fsync");
}

/// Runs a script in a mount namespace of its own, as anybody may where user namespaces are allowed.
fn elsewhere(script: &str) {
    let script = format!("mount --make-rprivate / && {script}");
    run("unshare", &["-m", "sh", "-e", "-c", &script]);
}

/// The names of the files of which there were events.
fn names(trace: &mut Trace) -> Vec<String> {
    let name = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
    paths_of(&trace.events())
        .into_iter()
        .filter_map(name)
        .collect()
}

fn a_directory_is_left_out_by_whatever_path(place: &Place) {
    let [data, cache, view] = directories(place, ["data", "cache/deep/er", "view"]);
    let cache = place
        .file("cache")
        .join(cache.strip_prefix(place.file("cache")).expect("below"));
    let excluded = place.file("cache");
    let pattern = format!("{}/**", plain(&excluded));
    let here = plain(&place.directory);
    let mut trace = Trace::start_with(&place.directory, &["--exclude", &pattern, here]);
    write(&excluded.join("a"));
    write(&cache.join("b"));
    write(&data.join("c"));
    // Beside it, with a name that begins like its name.
    let [beside] = directories(place, ["cached"]);
    write(&beside.join("d"));
    assert_eq!(names(&mut trace), ["c", "d"]);
    // By a mount elsewhere, of premod's own namespace and of another.
    let mount = BindMount::new(&excluded, &view);
    write(&view.join("a"));
    drop(mount);
    elsewhere(&format!(
        "mount --bind {} {}; echo y > {}/a",
        plain(&excluded),
        plain(&data),
        plain(&data)
    ));
    assert_eq!(names(&mut trace), [""; 0]);
    // By moving.
    fs::rename(excluded.join("a"), data.join("a")).expect("renaming");
    write(&data.join("a"));
    fs::rename(data.join("c"), excluded.join("c")).expect("renaming");
    write(&excluded.join("c"));
    assert_eq!(names(&mut trace), ["a"]);
    trace.end_cleanly();
}

fn no_mount_of_others_leaves_anything_out(place: &Place) {
    let [data, cache, glob] = directories(place, ["data", "cache", "glob/at/last"]);
    let file = data.join("file");
    write(&file);
    let scratch = place.file("scratch.tmp");
    write(&scratch);
    let arguments = [
        "--exclude",
        plain(&cache),
        "--exclude",
        &format!("{}/*/last/*", plain(&place.file("glob"))),
        "--exclude",
        "*.tmp",
        plain(&place.directory),
    ];
    let mut trace = Trace::start_with(&place.directory, &arguments);
    // As they are meant.
    write(&cache.join("one"));
    write(&glob.join("two"));
    write(&data.join("three.tmp"));
    assert_eq!(names(&mut trace), [""; 0]);
    for over in [&cache, &glob] {
        elsewhere(&format!(
            "mount --bind {} {over}; echo y > {over}/file; sync",
            plain(&data),
            over = plain(over)
        ));
        assert_eq!(names(&mut trace), ["file"], "{}", over.display());
    }
    // The whole filesystem, and the file alone.
    let root = place.directory.ancestors().nth(2).expect("a filesystem");
    let inside = file.strip_prefix(root).expect("below");
    elsewhere(&format!(
        "mount --bind {root} {over}; echo y > {over}/{inside}; sync",
        root = plain(root),
        over = plain(&cache),
        inside = plain(inside)
    ));
    assert_eq!(names(&mut trace), ["file"]);
    elsewhere(&format!(
        "mount --bind {} {over}; echo y > {over}; sync",
        plain(&file),
        over = plain(&scratch)
    ));
    let events = trace.events();
    assert_eq!(paths_of(&events), std::slice::from_ref(&scratch));
    // And without a mount the name is the file's own.
    write(&scratch);
    assert_eq!(names(&mut trace), [""; 0]);
    // Somebody who has a namespace of his own, and mounts nothing, chooses nothing.
    elsewhere(&format!("echo y > {}/four; sync", plain(&cache)));
    assert_eq!(names(&mut trace), [""; 0]);
    trace.end_cleanly();
}

fn a_file_is_left_out_with_all_its_names_only(place: &Place) {
    let [data, cache] = directories(place, ["data", "cache"]);
    let (inside, outside) = (data.join("file"), cache.join("file"));
    write(&inside);
    let arguments = [
        "--exclude",
        plain(&cache),
        "--exclude",
        "*.tmp",
        plain(&place.directory),
    ];
    let mut trace = Trace::start_with(&place.directory, &arguments);
    for second in [&outside, &data.join("file.tmp")] {
        fs::hard_link(&inside, second).expect("linking");
        write(second);
        assert_eq!(paths_of(&trace.events()), std::slice::from_ref(second));
        fs::remove_file(second).expect("unlinking");
    }
    fs::rename(&inside, &outside).expect("renaming");
    fs::hard_link(&outside, cache.join("again")).expect("linking");
    write(&outside);
    write(&cache.join("again"));
    assert_eq!(names(&mut trace), [""; 0]);
    trace.end_cleanly();
}

fn a_file_with_a_name_that_the_kernel_does_not_know_is_not_left_out(place: &Place) {
    let [data, cache] = directories(place, ["data/deep", "cache"]);
    let (inside, outside) = (data.join("file"), cache.join("file"));
    write(&inside);
    fs::hard_link(&inside, &outside).expect("linking");
    let both = cache.join("both");
    fs::write(&both, "x").expect("writing");
    fs::hard_link(&both, cache.join("second")).expect("linking");
    let [mut file, mut other] = [&outside, &both].map(|path| {
        let file = File::options().append(true).open(path);
        file.expect("opening")
    });
    let mut trace = Trace::start_with(
        &place.directory,
        &["--exclude", plain(&cache), plain(&place.directory)],
    );
    for _ in 0..5 {
        rustix::fs::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").expect("root may do that");
    }
    file.write_all(b"x").expect("writing");
    let events = trace.events();
    assert_eq!(paths_of(&events), [outside]);
    assert_eq!(events[0]["undecided"], true, "{events:?}");
    // Both of the other's names are known.
    fs::metadata(cache.join("second")).expect("stat");
    other.write_all(b"x").expect("writing");
    assert_eq!(names(&mut trace), [""; 0]);
    trace.end_cleanly();
}

fn without_a_path_everything_else_is_traced(place: &Place) {
    let [cache] = directories(place, ["cache"]);
    let arguments = ["--exclude", plain(&cache)];
    let mut trace = Trace::start_with(&place.directory, &arguments);
    write(&cache.join("one"));
    write(&place.file("two"));
    elsewhere(&format!(
        "mount --bind {} {cache}; echo y > {cache}/two; sync",
        plain(&place.outside),
        cache = plain(&cache)
    ));
    let mut seen = names(&mut trace);
    // Whatever else goes on in the machine is traced too.
    seen.retain(|name| ["one", "two"].contains(&name.as_str()));
    assert_eq!(seen, ["two", "two"]);
    trace.end_cleanly();
}

fn a_filesystem_below_is_left_out_if_it_is_mounted_nowhere_else(place: &Place) {
    let [cache, other] = directories(place, ["cache/mount", "other"]);
    let excluded = place.file("cache");
    let image = place.outside.join("image");
    File::create(&image)
        .and_then(|file| file.set_len(8 << 20))
        .expect("a new file");
    run("mkfs.ext4", &["-q", plain(&image)]);
    run("modprobe", &["loop"]);
    run("mount", &["-o", "loop", plain(&image), plain(&cache)]);
    let arguments = ["--exclude", plain(&excluded), plain(&place.directory)];
    let mut trace = Trace::start_with(&place.directory, &arguments);
    let written = |trace: &mut Trace| {
        fs::write(cache.join("file"), "x").expect("writing");
        rustix::fs::sync();
        let events = trace.events();
        events.iter().any(|event| path_of(event).ends_with("file"))
    };
    assert!(!written(&mut trace));
    let mount = BindMount::new(&cache, &other);
    sleep(LOOKED);
    assert!(written(&mut trace), "it is at both places");
    drop(mount);
    sleep(LOOKED);
    assert!(!written(&mut trace));
    run("umount", &[plain(&cache)]);
    sleep(LOOKED);
    assert!(!written(&mut trace), "the directory itself");
    run("mount", &["-o", "loop", plain(&image), plain(&cache)]);
    sleep(LOOKED);
    assert!(!written(&mut trace));
    let _ = trace.end();
    run("umount", &[plain(&cache)]);
}

fn a_place_is_whatever_has_its_name_now(place: &Place) {
    let [cache] = directories(place, ["cache"]);
    let old = place.file("old");
    let later = place.file("later");
    let arguments = [
        "--exclude",
        plain(&cache),
        "--exclude",
        &format!("{}/**", plain(&later)),
        plain(&place.directory),
    ];
    let mut trace = Trace::start_with(&place.directory, &arguments);
    fs::rename(&cache, &old).expect("renaming");
    sleep(LOOKED);
    write(&old.join("a"));
    fs::create_dir(&cache).expect("mkdir");
    sleep(LOOKED);
    write(&cache.join("b"));
    // One that was not there at the start is known by its name, at once.
    fs::create_dir(&later).expect("mkdir");
    write(&later.join("c"));
    write(&place.file("d"));
    assert_eq!(names(&mut trace), ["a", "d"]);
    trace.end_cleanly();
}

fn what_a_place_is_made_to_lead_to_is_not_left_out(place: &Place) {
    let [data, above, cache] = directories(place, ["data/cache", "above", "above/cache"]);
    let [secret, old] = ["data", "old"].map(|name| place.file(name));
    let arguments = ["--exclude", plain(&cache), plain(&place.directory)];
    let mut trace = Trace::start_with(&place.directory, &arguments);
    let mut told = |what: &str| {
        sleep(LOOKED);
        write(&data.join(what));
        assert_eq!(names(&mut trace), [what]);
    };
    fs::remove_dir(&cache).expect("rmdir");
    symlink(&data, &cache).expect("a link");
    told("a link");
    fs::rename(&above, &old).expect("renaming");
    symlink(&secret, &above).expect("a link");
    told("a link above");
    fs::remove_file(&above).expect("unlinking");
    fs::create_dir_all(&cache).expect("mkdir");
    let mount = BindMount::new(&data, &cache);
    told("a mount");
    drop(mount);
    let mount = BindMount::new(&secret, &above);
    told("a mount above");
    drop(mount);
    // And what is there by itself is left out again.
    sleep(LOOKED);
    write(&cache.join("own"));
    assert_eq!(names(&mut trace), [""; 0]);
    trace.end_cleanly();
}
