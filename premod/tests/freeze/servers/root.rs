//! Where the servers live: a root directory of their own, as in a container. premod is outside of it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Where `cargo xtask soak` puts Debian's packages of the servers.
const ROOT: &str = "/servers";

/// Makes the directory a root that programs can run in. What is below /mnt and /dev is the same inside.
pub(crate) fn prepare() {
    if Path::new(ROOT).join("proc/self").exists() {
        return;
    }
    for directory in ["dev", "etc", "mnt", "proc", "tmp"] {
        fs::create_dir_all(Path::new(ROOT).join(directory)).expect("mkdir");
    }
    let anybody = |path: PathBuf| {
        fs::create_dir_all(&path).expect("mkdir");
        fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).expect("chmod");
    };
    anybody(Path::new(ROOT).join("tmp"));
    anybody(PathBuf::from("/dev/shm"));
    let users = "postgres:x:901:901::/:/bin/sh\nmysql:x:902:902::/:/bin/sh\n";
    fs::write(Path::new(ROOT).join("etc/passwd"), users).expect("etc/passwd");
    for (options, from, to) in [
        (&["--rbind"][..], "/mnt", "mnt"),
        (&["--rbind"], "/dev", "dev"),
        (&["-t", "proc"], "proc", "proc"),
    ] {
        let mut mount = Command::new("mount");
        mount.args(options).arg(from).arg(Path::new(ROOT).join(to));
        assert!(mount.status().expect("mount").success(), "{mount:?}");
    }
}

/// A program in there, as a user.
pub(crate) fn command(user: u32, program: &str) -> Command {
    let mut command = Command::new("chroot");
    command
        .arg(format!("--userspec={user}:{user}"))
        .args([ROOT, program])
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    command
}

/// A directory of the user's alone.
pub(crate) fn own_directory(user: u32, path: &Path) {
    fs::create_dir_all(path).expect("mkdir");
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("chmod");
    std::os::unix::fs::chown(path, Some(user), Some(user)).expect("chown");
}

/// A directory for sockets, as a program in there names it.
pub(crate) fn sockets(user: u32, name: &str) -> PathBuf {
    let inside = Path::new("/tmp").join(name);
    own_directory(
        user,
        &Path::new(ROOT).join(inside.strip_prefix("/").expect("it is absolute")),
    );
    inside
}

/// A file in there.
pub(crate) fn read(path: &str) -> String {
    let path = Path::new(ROOT).join(path.trim_start_matches('/'));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
