//! Events name the file as the kernel saw it, and PATHs are decided in the kernel.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    freeze::fuse,
    harness::{Check, Place},
    tests,
    trace::{Trace, about, paths_of},
};

tests! {
    Shared an_unlinked_file_is_named_and_marked_deleted,
    Shared names_of_any_bytes_come_through,
    Shared a_path_too_long_is_cut_and_marked,
    Shared only_what_lies_below_the_path_is_reported,
    Shared a_file_given_as_path_is_traced_by_every_name,
    Shared a_file_that_gets_a_name_inside_is_reported_by_every_name,
    Shared a_file_renamed_into_the_directory_belongs_to_it,
    Shared bind_mounts_are_crossed_both_ways,
    Alone without_a_path_every_filesystem_with_dirty_tracking_is_traced,
    Shared a_filesystem_mounted_below_later_belongs_to_the_directory,
    Alone a_filesystem_below_that_does_not_answer_is_not_waited_for,
}

fn an_unlinked_file_is_named_and_marked_deleted(place: &Place) -> Check {
    let path = place.file("gone");
    let mut file = File::create(&path).expect("a new file");
    Box::new(move |trace| {
        fs::remove_file(&path).expect("unlinking");
        file.write_all(b"x").expect("writing");
        let events = trace.events();
        let [event] = about(&events, &path)[..] else {
            panic!("{events:?}")
        };
        assert_eq!(event["deleted"], true);
    })
}

fn names_of_any_bytes_come_through(place: &Place) -> Check {
    let mut names: Vec<Vec<u8>> = vec![
        b"new\nline".to_vec(),
        b"\x1b[31mred".to_vec(),
        b"invalid \xff\xfe".to_vec(),
        "\u{fc}n\u{ef}".as_bytes().to_vec(),
        b"\"quotes\\".to_vec(),
        vec![1; 255],
    ];
    names.push((1..=255).filter(|&byte| byte != b'/').collect());
    let directory = place.directory.clone();
    Box::new(move |trace| {
        let paths: Vec<PathBuf> = names
            .iter()
            .map(|name| directory.join(OsStr::from_bytes(name)))
            .collect();
        for path in &paths {
            fs::write(path, "x").expect("a new file");
        }
        assert_eq!(paths_of(&trace.events()), paths);
    })
}

fn a_path_too_long_is_cut_and_marked(place: &Place) -> Check {
    // 40 directories with names of 200 bytes: twice what fits.
    let name = "d".repeat(200);
    let mut directory = File::open(&place.directory).expect("the directory");
    for _ in 0..40 {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        mkdirat(&directory, &name, Mode::RWXU).expect("mkdir");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        directory = openat(&directory, &name, flags, Mode::empty())
            .expect("open")
            .into();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let mode = rustix::fs::Mode::RWXU;
    let mut file: File = rustix::fs::openat(&directory, "leaf", flags, mode)
        .expect("a new file")
        .into();
    Box::new(move |trace| {
        file.write_all(b"x").expect("writing");
        let events = trace.events();
        let [event] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(event["path_cut"], true);
        let path = event["path"].as_str().expect("a path");
        assert!(path.starts_with('d') && path.ends_with("/leaf"), "{path}");
        assert!(path.len() > 3500, "most of it is there");
    })
}

fn only_what_lies_below_the_path_is_reported(place: &Place) -> Check {
    let (inside, outside) = (place.directory.clone(), place.outside.clone());
    fs::create_dir_all(inside.join("deep/deeper")).expect("mkdir");
    // Beside the traced directory, with a name that begins like its name.
    let beside = inside
        .ancestors()
        .nth(1)
        .expect("a parent")
        .with_file_name("traced-not");
    fs::create_dir_all(&beside).expect("mkdir");
    Box::new(move |trace| {
        fs::write(outside.join("a"), "x").expect("writing");
        fs::write(inside.join("deep/deeper/b"), "x").expect("writing");
        fs::write(beside.join("c"), "x").expect("writing");
        fs::write(inside.join("d"), "x").expect("writing");
        let wanted = [inside.join("deep/deeper/b"), inside.join("d")];
        assert_eq!(paths_of(&trace.events()), wanted);
    })
}

fn a_file_given_as_path_is_traced_by_every_name(place: &Place) -> Check {
    let (given, outside) = (place.given.clone(), place.outside.clone());
    let other = outside.join("other-name");
    fs::hard_link(&given, &other).expect("linking");
    Box::new(move |trace| {
        fs::write(outside.join("unrelated"), "y").expect("writing");
        fs::write(&other, "y").expect("writing");
        let events = trace.events();
        assert_eq!(paths_of(&events), std::slice::from_ref(&other));
        assert_eq!(
            events[0]["inode"],
            fs::metadata(&given).expect("stat").ino()
        );
    })
}

fn a_file_that_gets_a_name_inside_is_reported_by_every_name(place: &Place) -> Check {
    let (inside, outside) = (place.file("linked"), place.outside.join("linked"));
    fs::write(&outside, "x").expect("a new file");
    Box::new(move |trace| {
        // Decided as outside, while it has one name only …
        fs::write(&outside, "y").expect("writing");
        rustix::fs::sync();
        assert_eq!(paths_of(&trace.events()), [""; 0].map(PathBuf::from));
        // … and anew when it has another.
        fs::hard_link(&outside, &inside).expect("linking");
        for name in [&outside, &inside] {
            fs::write(name, "z").expect("writing");
            rustix::fs::sync();
        }
        assert_eq!(paths_of(&trace.events()), [outside, inside]);
    })
}

fn a_file_renamed_into_the_directory_belongs_to_it(place: &Place) -> Check {
    let (inside, outside) = (place.directory.clone(), place.outside.clone());
    fs::create_dir(outside.join("sub")).expect("mkdir");
    let mut file = File::create(outside.join("file")).expect("a new file");
    let mut below = File::create(outside.join("sub/below")).expect("a new file");
    Box::new(move |trace| {
        // Decided once as outside …
        file.write_all(b"x").expect("writing");
        below.write_all(b"x").expect("writing");
        rustix::fs::sync();
        assert_eq!(paths_of(&trace.events()), [""; 0].map(PathBuf::from));
        // … and anew when the file, or a directory above it, has moved.
        fs::rename(outside.join("file"), inside.join("file")).expect("renaming");
        fs::rename(outside.join("sub"), inside.join("sub")).expect("renaming");
        file.write_all(b"x").expect("writing");
        below.write_all(b"x").expect("writing");
        let wanted = [inside.join("file"), inside.join("sub/below")];
        assert_eq!(paths_of(&trace.events()), wanted);
        // Moved out again, it is nobody's business.
        fs::rename(inside.join("file"), outside.join("file")).expect("renaming");
        rustix::fs::sync();
        file.write_all(b"x").expect("writing");
        assert_eq!(paths_of(&trace.events()), [""; 0].map(PathBuf::from));
    })
}

fn bind_mounts_are_crossed_both_ways(place: &Place) -> Check {
    let (inside, outside) = (place.directory.clone(), place.outside.clone());
    let [foreign, elsewhere] = ["foreign", "elsewhere"].map(|name| outside.join(name));
    for directory in [
        &inside.join("sub"),
        &inside.join("mounted"),
        &elsewhere,
        &foreign,
    ] {
        fs::create_dir(directory).expect("mkdir");
    }
    let out = BindMount::new(&inside.join("sub"), &elsewhere);
    let into = BindMount::new(&foreign, &inside.join("mounted"));
    Box::new(move |trace| {
        // The directory's own file, by a mount outside of it; a foreign file, by a mount inside of it.
        fs::write(elsewhere.join("a"), "x").expect("writing");
        fs::write(inside.join("mounted/b"), "x").expect("writing");
        let wanted = [elsewhere.join("a"), inside.join("mounted/b")];
        assert_eq!(paths_of(&trace.events()), wanted);
        drop((out, into));
    })
}

fn a_filesystem_mounted_below_later_belongs_to_the_directory(place: &Place) -> Check {
    let (mount, foreign) = (place.file("mount"), place.outside.join("foreign"));
    for directory in [&mount, &foreign] {
        fs::create_dir(directory).expect("mkdir");
    }
    let mut file = File::create(foreign.join("file")).expect("a new file");
    Box::new(move |trace| {
        file.write_all(b"x").expect("writing");
        rustix::fs::sync();
        assert_eq!(paths_of(&trace.events()), [""; 0].map(PathBuf::from));
        let mounted = BindMount::new(&foreign, &mount);
        fs::write(mount.join("file"), "y").expect("writing");
        assert_eq!(paths_of(&trace.events()), [mount.join("file")]);
        drop(mounted);
    })
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
        assert_eq!(
            about(&events, path).len(),
            1,
            "{}: {events:?}",
            path.display()
        );
    }
    assert!(
        about(&events, Path::new("/tmp/on-tmpfs")).is_empty(),
        "tmpfs keeps no dirty marks"
    );
    let types: Vec<_> = mounts
        .iter()
        .map(|path| about(&events, path)[0]["fs"].clone())
        .collect();
    assert_eq!(types, ["ext4", "xfs", "btrfs"]);
    trace.end_cleanly();
}

/// A bind mount that is gone when it is dropped.
pub(crate) struct BindMount(PathBuf);

impl BindMount {
    pub(crate) fn new(from: &Path, at: &Path) -> Self {
        rustix::mount::mount_bind(from, at).expect("a bind mount");
        Self(at.to_owned())
    }

    pub(crate) fn move_to(&mut self, to: &Path) {
        rustix::mount::mount_move(&self.0, to).expect("moving a mount");
        self.0 = to.to_owned();
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

fn a_filesystem_below_that_does_not_answer_is_not_waited_for(place: &Place) {
    let (mounted, server) = fuse::mount_dead(&place.file("fuse"));
    let mut trace = Trace::start(&place.directory);
    let file = place.file("file");
    fs::write(&file, "x").expect("writing");
    assert_eq!(about(&trace.events(), &file).len(), 1);
    trace.end_cleanly();
    drop((mounted, server));
}
