//! Events name the file as the kernel saw it, and PATHs are decided in the kernel.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    harness::Place,
    tests,
    trace::{Trace, about, path_of},
};

tests! {
    Filesystem an_unlinked_file_is_named_and_marked_deleted,
    Filesystem names_of_any_bytes_come_through,
    Filesystem a_path_too_long_is_cut_and_marked,
    Filesystem only_what_lies_below_the_path_is_reported,
    Filesystem a_file_given_as_path_is_traced_by_every_name,
    Filesystem a_file_renamed_into_the_directory_belongs_to_it,
    Filesystem bind_mounts_are_crossed_both_ways,
    Boot without_a_path_every_filesystem_with_dirty_tracking_is_traced,
    Boot a_filesystem_mounted_below_later_belongs_to_the_directory,
}

fn an_unlinked_file_is_named_and_marked_deleted(place: &Place) {
    let path = place.file("gone");
    let mut file = File::create(&path).expect("a new file");
    let mut trace = Trace::start(&place.directory);
    fs::remove_file(&path).expect("unlinking");
    file.write_all(b"x").expect("writing");
    let events = trace.events();
    let [event] = about(&events, &path)[..] else { panic!("{events:?}") };
    assert_eq!(event["deleted"], true);
    trace.end_cleanly();
}

fn names_of_any_bytes_come_through(place: &Place) {
    let mut names: Vec<Vec<u8>> = vec![
        b"new\nline".to_vec(),
        b"\x1b[31mred".to_vec(),
        b"invalid \xff\xfe".to_vec(),
        "ünï".as_bytes().to_vec(),
        b"\"quotes\\".to_vec(),
        vec![1; 255],
    ];
    names.push((1..=255).filter(|&byte| byte != b'/').collect());
    let mut trace = Trace::start(&place.directory);
    for name in &names {
        fs::write(place.directory.join(OsStr::from_bytes(name)), "x").expect("a new file");
    }
    let events = trace.events();
    let seen: Vec<PathBuf> = events.iter().map(path_of).collect();
    let wanted: Vec<PathBuf> =
        names.iter().map(|name| place.directory.join(OsStr::from_bytes(name))).collect();
    assert_eq!(seen, wanted);
    trace.end_cleanly();
}

fn a_path_too_long_is_cut_and_marked(place: &Place) {
    // 40 directories with names of 200 bytes: twice what fits.
    let name = "d".repeat(200);
    let mut directory = File::open(&place.directory).expect("the directory");
    for _ in 0..40 {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        mkdirat(&directory, &name, Mode::RWXU).expect("mkdir");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        directory = openat(&directory, &name, flags, Mode::empty()).expect("open").into();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let mode = rustix::fs::Mode::RWXU;
    let mut file: File =
        rustix::fs::openat(&directory, "leaf", flags, mode).expect("a new file").into();
    let mut trace = Trace::start(&place.directory);
    file.write_all(b"x").expect("writing");
    let events = trace.events();
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(event["path_cut"], true);
    let path = event["path"].as_str().expect("a path");
    assert!(path.starts_with('d') && path.ends_with("/leaf"), "{path}");
    assert!(path.len() > 3500, "most of it is there");
    trace.end_cleanly();
}

fn only_what_lies_below_the_path_is_reported(place: &Place) {
    let inside = place.file("inside");
    let outside = place.file("inside-not");
    fs::create_dir_all(inside.join("deep/deeper")).expect("mkdir");
    fs::create_dir_all(&outside).expect("mkdir");
    let mut trace = Trace::start(&inside);
    fs::write(outside.join("a"), "x").expect("writing");
    fs::write(inside.join("deep/deeper/b"), "x").expect("writing");
    fs::write(place.file("c"), "x").expect("writing");
    fs::write(inside.join("d"), "x").expect("writing");
    let events = trace.events();
    let seen: Vec<PathBuf> = events.iter().map(path_of).collect();
    assert_eq!(seen, [inside.join("deep/deeper/b"), inside.join("d")]);
    trace.end_cleanly();
}

fn a_file_given_as_path_is_traced_by_every_name(place: &Place) {
    let path = place.file("file");
    let other = place.file("other-name");
    let sentinels = place.file("sentinels");
    fs::create_dir(&sentinels).expect("mkdir");
    fs::write(&path, "x").expect("writing");
    fs::hard_link(&path, &other).expect("linking");
    fs::write(place.file("unrelated"), "x").expect("writing");
    rustix::fs::sync();
    let mut trace = Trace::start_with(&sentinels, &[text(&path), text(&sentinels)]);
    fs::write(place.file("unrelated"), "y").expect("writing");
    fs::write(&other, "y").expect("writing");
    let events = trace.events();
    let seen: Vec<PathBuf> = events.iter().map(path_of).collect();
    assert_eq!(seen, std::slice::from_ref(&other));
    let inode = fs::metadata(&path).expect("stat").ino();
    assert_eq!(events[0]["inode"], inode);
    trace.end_cleanly();
}

fn a_file_renamed_into_the_directory_belongs_to_it(place: &Place) {
    let inside = place.file("inside");
    let outside = place.file("outside");
    for directory in [&inside, &outside, &outside.join("sub")] {
        fs::create_dir(directory).expect("mkdir");
    }
    let mut file = File::create(outside.join("file")).expect("a new file");
    let mut below = File::create(outside.join("sub/below")).expect("a new file");
    let mut trace = Trace::start(&inside);
    // Decided once as outside …
    file.write_all(b"x").expect("writing");
    below.write_all(b"x").expect("writing");
    rustix::fs::sync();
    assert!(trace.events().is_empty());
    // … and anew when the file, or a directory above it, has moved.
    fs::rename(outside.join("file"), inside.join("file")).expect("renaming");
    fs::rename(outside.join("sub"), inside.join("sub")).expect("renaming");
    file.write_all(b"x").expect("writing");
    below.write_all(b"x").expect("writing");
    let seen: Vec<PathBuf> = trace.events().iter().map(path_of).collect();
    assert_eq!(seen, [inside.join("file"), inside.join("sub/below")]);
    // Moved out again, they are nobody's business.
    fs::rename(inside.join("file"), outside.join("file")).expect("renaming");
    rustix::fs::sync();
    file.write_all(b"x").expect("writing");
    assert!(trace.events().is_empty());
    trace.end_cleanly();
}

fn bind_mounts_are_crossed_both_ways(place: &Place) {
    let inside = place.file("inside");
    let elsewhere = place.file("elsewhere");
    let foreign = place.file("foreign");
    for directory in [&inside, &inside.join("sub"), &inside.join("mounted"), &elsewhere, &foreign] {
        fs::create_dir(directory).expect("mkdir");
    }
    let _out = BindMount::new(&inside.join("sub"), &elsewhere);
    let _in = BindMount::new(&foreign, &inside.join("mounted"));
    let mut trace = Trace::start(&inside);
    // The directory's own file, by a mount outside of it.
    fs::write(elsewhere.join("a"), "x").expect("writing");
    // A foreign file, by a mount inside of it.
    fs::write(inside.join("mounted/b"), "x").expect("writing");
    let seen: Vec<PathBuf> = trace.events().iter().map(path_of).collect();
    assert_eq!(seen, [elsewhere.join("a"), inside.join("mounted/b")]);
    trace.end_cleanly();
}

fn without_a_path_every_filesystem_with_dirty_tracking_is_traced(place: &Place) {
    let mut trace = Trace::start_with(&place.directory, &[]);
    let mounts: Vec<PathBuf> = ["ext4", "xfs", "btrfs"]
        .into_iter()
        .map(|name| Path::new("/mnt").join(name).join("everywhere"))
        .collect();
    for path in &mounts {
        fs::write(path, "x").expect("writing");
    }
    fs::write("/tmp/on-tmpfs", "x").expect("writing");
    let events = trace.events();
    for path in &mounts {
        assert_eq!(about(&events, path).len(), 1, "{}: {events:?}", path.display());
    }
    assert!(about(&events, Path::new("/tmp/on-tmpfs")).is_empty(), "tmpfs keeps no dirty marks");
    let types: Vec<_> = mounts.iter().map(|path| about(&events, path)[0]["fs"].clone()).collect();
    assert_eq!(types, ["ext4", "xfs", "btrfs"]);
    trace.end_cleanly();
}

fn a_filesystem_mounted_below_later_belongs_to_the_directory(place: &Place) {
    let inside = place.file("inside");
    let foreign = place.file("foreign");
    fs::create_dir(&foreign).expect("mkdir");
    fs::create_dir_all(inside.join("mount")).expect("mkdir");
    let mut file = File::create(foreign.join("file")).expect("a new file");
    let mut trace = Trace::start(&inside);
    file.write_all(b"x").expect("writing");
    assert!(trace.events().is_empty());
    rustix::fs::sync();
    let _mount = BindMount::new(&foreign, &inside.join("mount"));
    fs::write(inside.join("mount/file"), "y").expect("writing");
    let seen: Vec<PathBuf> = trace.events().iter().map(path_of).collect();
    assert_eq!(seen, [inside.join("mount/file")]);
    trace.end_cleanly();
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A bind mount that is gone at the end of the test.
struct BindMount(PathBuf);

impl BindMount {
    fn new(from: &Path, at: &Path) -> Self {
        rustix::mount::mount_bind(from, at).expect("a bind mount");
        Self(at.to_owned())
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
