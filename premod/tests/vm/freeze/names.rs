//! Names on the way to a frozen file: whoever changes one, be it for a moment, makes CMD read another file perhaps.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    mount::{UnmountFlags, mount_bind, unmount},
};

use super::{
    policies::{records, terminate},
    premod::{Ended, Freeze},
    process,
};
use crate::{harness::Place, tests, workload::clean_file};

tests! {
    Alone a_link_on_the_way_that_is_switched_violates_the_freeze,
    Alone a_second_name_that_is_replaced_violates_the_freeze,
    Alone a_name_that_is_another_files_for_a_moment_violates_the_freeze on Every,
    Alone a_directory_above_that_is_renamed_violates_the_freeze,
    Alone a_name_that_is_covered_for_a_moment_violates_the_freeze on Every,
    Alone other_names_may_change,
    Alone a_path_through_the_root_of_a_container_leads_to_its_file,
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A file below two directories, and the same once more for whoever wants to exchange them.
fn tree(place: &Place, name: &str) -> PathBuf {
    let directory = place.file(name).join("deep");
    fs::create_dir_all(&directory).expect("mkdir");
    clean_file(&directory.join("data"));
    directory.join("data")
}

/// What comes of it if this is done while files are frozen under these names. The change is over before premod looks.
fn frozen(names: &[&Path], change: impl FnOnce()) -> Ended {
    let names: Vec<&str> = names.iter().map(|name| plain(name)).collect();
    let mut freeze = Freeze::start(&names);
    freeze.frozen();
    change();
    terminate(freeze)
}

fn is_violated(ended: Ended, path: &Path) {
    let ended = ended.expect(17);
    let told = records(&ended, "violated");
    let [violation] = &told[..] else {
        panic!("not told once: {ended:?}");
    };
    assert_eq!(violation["path"], plain(path), "{violation}");
    assert_eq!(violation["comm"], "premod-vm-test", "{violation}");
    assert!(violation["op"].is_null(), "{violation}");
}

fn exchange(one: &Path, other: &Path) {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("renameat2");
}

fn a_link_on_the_way_that_is_switched_violates_the_freeze(place: &Place) {
    let path = tree(place, "v1");
    tree(place, "v2");
    let [current, next] = ["current", "next"].map(|name| place.file(name));
    // Relative, absolute, and by way of a directory that is left again.
    let way = place.directory.join("v2/deep/../../v1");
    for to in [Path::new("v1"), &place.directory.join("v1"), &way] {
        symlink(to, &current).expect("symlink");
        let name = current.join("deep/data");
        let ended = frozen(&[&name], || {
            symlink("v2", &next).expect("symlink");
            fs::rename(&next, &current).expect("rename");
        });
        is_violated(ended, &path);
        fs::remove_file(&current).expect("unlink");
    }
}

fn a_second_name_that_is_replaced_violates_the_freeze(place: &Place) {
    let (first, second, other) = (place.file("a"), place.file("b"), place.file("c"));
    clean_file(&first);
    clean_file(&other);
    fs::hard_link(&first, &second).expect("link");
    let ended = frozen(&[&first, &second], || {
        fs::rename(&other, &second).expect("rename");
    });
    is_violated(ended, &first);
    fs::remove_file(&second).expect("unlink");
    fs::hard_link(&first, &second).expect("link");
    let ended = frozen(&[&first, &second], || {
        fs::remove_file(&second).expect("unlink");
        fs::hard_link(&first, &second).expect("link");
    });
    is_violated(ended, &first);
}

fn a_name_that_is_another_files_for_a_moment_violates_the_freeze(place: &Place) {
    let (path, other) = (place.file("data"), place.file("other"));
    clean_file(&path);
    clean_file(&other);
    let ended = frozen(&[&path], || {
        exchange(&path, &other);
        exchange(&path, &other);
    });
    is_violated(ended, &path);
}

fn a_directory_above_that_is_renamed_violates_the_freeze(place: &Place) {
    let path = tree(place, "tree");
    let (tree, away) = (place.file("tree"), place.file("away"));
    let ended = frozen(&[&path], || {
        fs::rename(&tree, &away).expect("rename");
        fs::rename(&away, &tree).expect("rename");
    });
    is_violated(ended, &path);
}

/// Neighbours, a second name that was not given, a link that nobody has used.
fn a_name_that_is_covered_for_a_moment_violates_the_freeze(place: &Place) {
    let (data, other) = (tree(place, "covered"), tree(place, "cover"));
    let ended = frozen(&[&data], || {
        mount_bind(&other, &data).expect("mount");
        unmount(&data, UnmountFlags::empty()).expect("umount");
    });
    is_violated(ended, &data);
}

fn other_names_may_change(place: &Place) {
    let path = tree(place, "tree");
    let beside = path.with_file_name("beside");
    let ended = frozen(&[&path], || {
        fs::hard_link(&path, &beside).expect("link");
        fs::rename(&beside, place.file("second")).expect("rename");
        fs::remove_file(place.file("second")).expect("unlink");
        symlink("tree", place.file("unused")).expect("symlink");
        fs::remove_file(place.file("unused")).expect("unlink");
        fs::create_dir(place.file("empty")).expect("mkdir");
        fs::remove_dir(place.file("empty")).expect("rmdir");
    });
    ended.expect(0);
}

/// Without the links of /proc the same path leads to another file here.
fn a_path_through_the_root_of_a_container_leads_to_its_file(place: &Place) {
    const INSIDE: &str =
        "mount --make-rprivate / && mount --bind \"$1\" \"$2\" && echo ready && cat";
    let (theirs, ours) = (tree(place, "theirs"), tree(place, "ours"));
    let mut container = Command::new("unshare")
        .args(["--mount", "sh", "-c", INSIDE, "sh"])
        .args([&theirs, &ours])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare");
    let stdout = container.stdout.take().expect("stdout is a pipe");
    let mut stdout = BufReader::new(stdout);
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    let path = format!("/proc/{}/root{}", container.id(), plain(&ours));
    let mut freeze = Freeze::start(&[&path]);
    let report = freeze.frozen();
    terminate(freeze).expect(0);
    drop(container.stdin.take());
    assert!(process::wait(&mut container).success(), "the container");
    let inode = fs::metadata(&theirs).expect("stat").ino();
    assert_eq!(report["files"][0]["inode"], inode, "{report}");
    assert_eq!(report["files"][0]["path"], *path, "{report}");
}
