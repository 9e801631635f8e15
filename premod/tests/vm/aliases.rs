//! Files with several names, without one, and of which nobody knows the name.

use std::{
    ffi::CString,
    fs::{self, File},
    io::Write,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
};

use crate::{
    harness::{Check, Place},
    paths::BindMount,
    tests,
    trace::{about, paths_of},
};

tests! {
    Shared a_file_mounted_inside_is_inside_by_every_name,
    Shared a_file_with_hundreds_of_names_is_inside_only_if_one_of_them_is,
    Shared a_file_is_deleted_only_when_it_has_no_name_left,
    Shared a_file_opened_by_its_handle_is_inside_until_its_name_is_known,
    Shared a_file_renamed_while_it_is_first_written_is_not_taken_for_outside,
}

fn a_file_mounted_inside_is_inside_by_every_name(place: &Place) -> Check {
    let [early, late] = ["early", "late"].map(|name| {
        let names = (place.outside.join(name), place.file(name));
        for name in [&names.0, &names.1] {
            fs::write(name, "x").expect("a new file");
        }
        names
    });
    let mount = BindMount::new(&early.0, &early.1);
    let outside = place.outside.join("neither");
    Box::new(move |trace| {
        let later = BindMount::new(&late.0, &late.1);
        std::thread::sleep(std::time::Duration::from_secs(1));
        fs::write(&outside, "y").expect("writing");
        for (source, target) in [&early, &late] {
            fs::write(source, "y").expect("writing");
            assert_eq!(paths_of(&trace.events()), std::slice::from_ref(source));
            rustix::fs::sync();
            fs::write(target, "z").expect("writing");
            assert_eq!(paths_of(&trace.events()), std::slice::from_ref(target));
            rustix::fs::sync();
        }
        drop((mount, later));
    })
}

fn a_file_with_hundreds_of_names_is_inside_only_if_one_of_them_is(place: &Place) -> Check {
    let [outside, inside] = ["outside", "inside"].map(|name| place.outside.join(name));
    for path in [&outside, &inside] {
        fs::write(path, "x").expect("a new file");
        for number in 0..300 {
            let name = format!("{}{number}", path.display());
            fs::hard_link(path, name).expect("linking");
        }
    }
    let name = place.file("name");
    fs::hard_link(&inside, &name).expect("linking");
    Box::new(move |trace| {
        // Among those that are looked up first, so that it is far down the kernel's list. Others drop caches meanwhile.
        fs::metadata(&name).expect("stat");
        for number in 0..300 {
            fs::metadata(format!("{}{number}", inside.display())).expect("stat");
        }
        fs::write(&outside, "y").expect("writing");
        fs::write(&inside, "y").expect("writing");
        let events = trace.events();
        assert_eq!(paths_of(&events), [inside]);
        assert!(events[0].get("undecided").is_none(), "{events:?}");
    })
}

fn a_file_is_deleted_only_when_it_has_no_name_left(place: &Place) -> Check {
    let (first, second) = (place.outside.join("first"), place.file("second"));
    let mut file = File::create(&first).expect("a new file");
    fs::hard_link(&first, &second).expect("linking");
    fs::remove_file(&first).expect("unlinking");
    // Never had one, and then has.
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::WRONLY;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let unnamed = rustix::fs::open(&place.directory, flags, mode).expect("O_TMPFILE");
    let mut unnamed = File::from(unnamed);
    let linked = place.file("linked");
    Box::new(move |trace| {
        fs::metadata(&second).expect("stat");
        file.write_all(b"x").expect("writing");
        let events = trace.events();
        let [event] = about(&events, &second)[..] else {
            panic!("{events:?}")
        };
        assert!(event.get("deleted").is_none(), "{event}");
        fs::remove_file(&second).expect("unlinking");
        rustix::fs::sync();
        file.write_all(b"x").expect("writing");
        let events = trace.events();
        assert_eq!(events[0]["deleted"], true, "{events:?}");

        unnamed.write_all(b"x").expect("writing");
        let events = trace.events();
        assert_eq!(events[0]["deleted"], true, "{events:?}");
        let magic = format!("/proc/self/fd/{}", unnamed.as_raw_fd());
        use rustix::fs::{AtFlags, CWD, linkat};
        linkat(CWD, magic, CWD, &linked, AtFlags::SYMLINK_FOLLOW).expect("linkat");
        rustix::fs::sync();
        unnamed.write_all(b"x").expect("writing");
        let events = trace.events();
        let [event] = about(&events, &linked)[..] else {
            panic!("{events:?}")
        };
        assert!(event.get("deleted").is_none(), "{event}");
    })
}

fn a_file_opened_by_its_handle_is_inside_until_its_name_is_known(place: &Place) -> Check {
    let [inside, outside] = [&place.directory, &place.outside].map(|at| at.join("by-handle"));
    for path in [&inside, &outside] {
        fs::write(path, "x").expect("a new file");
    }
    let handles = [Handle::of(&inside), Handle::of(&outside)];
    Box::new(move |trace| {
        let [mut by_handle, mut stranger] = handles.map(Handle::open_without_a_name);
        for file in [&mut by_handle, &mut stranger] {
            file.write_all(b"x").expect("writing");
            let events = trace.events();
            assert_eq!(events.len(), 1, "{events:?}");
            assert_eq!(events[0]["inode"], file.metadata().expect("fstat").ino());
            assert_eq!(events[0]["undecided"], true, "{events:?}");
            assert_eq!(events[0]["path"], "", "{events:?}");
        }
        rustix::fs::sync();
        // Whoever looks the name up makes it known.
        for path in [&inside, &outside] {
            fs::metadata(path).expect("stat");
        }
        for file in [&mut stranger, &mut by_handle] {
            file.write_all(b"x").expect("writing");
        }
        let events = trace.events();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(
            events[0]["inode"],
            by_handle.metadata().expect("fstat").ino()
        );
        rustix::fs::sync();
        for path in [&inside, &outside] {
            fs::write(path, "y").expect("writing");
        }
        assert_eq!(paths_of(&trace.events()), [inside]);
    })
}

/// The name moves in while it is decided whether the file is outside: that verdict must not last.
fn a_file_renamed_while_it_is_first_written_is_not_taken_for_outside(place: &Place) -> Check {
    const FILES: usize = 300;
    let (inside, outside) = (place.directory.clone(), place.outside.clone());
    let name = |number: usize| format!("moved{number}");
    for number in 0..FILES {
        fs::write(outside.join(name(number)), "x").expect("a new file");
    }
    Box::new(move |trace| {
        for number in 0..FILES {
            let mut file = File::options()
                .append(true)
                .open(outside.join(name(number)))
                .expect("open");
            std::thread::scope(|scope| {
                scope.spawn(|| file.write_all(b"x").expect("writing"));
                fs::rename(outside.join(name(number)), inside.join(name(number)))
                    .expect("renaming");
            });
            file.sync_data().expect("fsync");
            file.write_all(b"x").expect("writing");
        }
        let events = trace.events();
        let missed: Vec<_> = (0..FILES)
            .filter(|&number| about(&events, &inside.join(name(number))).is_empty())
            .collect();
        assert!(missed.is_empty(), "{missed:?}");
    })
}

/// A file handle, and the directory of a mount of its filesystem.
struct Handle {
    bytes: Vec<u8>,
    mount: File,
}

impl Handle {
    fn of(path: &Path) -> Self {
        let name = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
        let mut bytes = vec![0u8; size_of::<libc::file_handle>() + libc::MAX_HANDLE_SZ as usize];
        bytes[..4].copy_from_slice(&libc::MAX_HANDLE_SZ.cast_unsigned().to_ne_bytes());
        let mut mount_id = 0;
        // SAFETY: the name ends with NUL, and the handle has as much room as it says.
        let result = unsafe {
            libc::name_to_handle_at(
                libc::AT_FDCWD,
                name.as_ptr(),
                bytes.as_mut_ptr().cast(),
                &raw mut mount_id,
                0,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        let mount = File::open(path.parent().expect("a parent")).expect("open");
        Self { bytes, mount }
    }

    /// Opens the file while no name of it is in the kernel's memory.
    fn open_without_a_name(mut self) -> File {
        for _ in 0..20 {
            rustix::fs::sync();
            fs::write("/proc/sys/vm/drop_caches", "2").expect("drop_caches");
            // SAFETY: the handle is one that the kernel has written, and the result is a new descriptor or an error.
            let file = unsafe {
                let descriptor = libc::open_by_handle_at(
                    self.mount.as_raw_fd(),
                    self.bytes.as_mut_ptr().cast(),
                    libc::O_WRONLY | libc::O_APPEND | libc::O_CLOEXEC,
                );
                assert!(descriptor >= 0, "{}", std::io::Error::last_os_error());
                File::from_raw_fd(descriptor)
            };
            // A dentry without a directory has no path but this.
            let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            if path.expect("a link") == Path::new("/") {
                return file;
            }
        }
        panic!("the kernel keeps the name in memory");
    }
}
