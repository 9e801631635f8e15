//! The guest's user space: busybox and Debian's tools, unpacked into a directory that becomes
//! the first part of every initramfs. The host makes the test disks with the same tools, so that
//! the oldest kernel can mount what they make.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use premod_guest::HOME;

use super::apt::PrivateApt;
use crate::{exec, paths, vm::archive::Archive};

/// What the guest has besides busybox.
const PACKAGES: [&str; 11] = [
    "btrfs-progs",
    "busybox-static",
    "coreutils",
    "e2fsprogs",
    "fatrace",
    "inotify-tools",
    "libcap2-bin",
    "sqlite3",
    "strace",
    "util-linux",
    "xfsprogs",
];

/// Dependencies that only maintainer scripts or unused programs need.
const LEFT_OUT: [&str; 22] = [
    "debconf",
    "dmsetup",
    "dpkg",
    "gcc-",
    "libdb5",
    "libexpat",
    "libffi",
    "libgssapi",
    "libicu",
    "libk5crypto",
    "libkeyutils",
    "libkrb5",
    "libncurses",
    "libnsl",
    "libpython3",
    "libssl",
    "libtirpc",
    "mailcap",
    "media-types",
    "python3",
    "readline-common",
    "tar",
];

/// Directories and files that only take memory from the guest.
const PRUNED: [&str; 12] = [
    "usr/share",
    "usr/lib/udev",
    "lib/udev",
    "usr/lib/systemd",
    "lib/systemd",
    "etc",
    "var",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/e2fsprogs",
    "usr/lib/locale",
    "usr/lib/x86_64-linux-gnu/audit",
    "lib/x86_64-linux-gnu/security",
];

/// Counted up when what is done with the packages changes, so that caches are made anew.
const REVISION: u32 = 3;

/// The unpacked tools.
pub(crate) fn root() -> PathBuf {
    paths::vm().join("guest/root")
}

/// The archive with them, the first part of every initramfs.
pub(crate) fn archive() -> PathBuf {
    paths::vm().join("guest/base.cpio")
}

/// Whether the tools are there as this version of xtask wants them.
pub(crate) fn present() -> bool {
    let stamp = fs::read_to_string(paths::vm().join("guest/stamp"));
    archive().is_file() && stamp.is_ok_and(|stamp| stamp == wanted_stamp())
}

fn wanted_stamp() -> String {
    format!("{REVISION} {}", PACKAGES.join(" "))
}

/// A program of the guest's, as a command that runs on the host.
pub(crate) fn host_command(program: &str) -> Command {
    let root = root();
    let libraries = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]
        .map(|directory| root.join(directory).display().to_string())
        .join(":");
    let mut command = Command::new(root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
    command
        .args(["--library-path", &libraries])
        .arg(root.join(program));
    command
}

/// Fetches and unpacks the tools and makes the archive; says how large it is.
pub(crate) fn fetch(apt: &PrivateApt) -> Result<String> {
    let root = root();
    let parent = paths::vm().join("guest");
    if parent.exists() {
        fs::remove_dir_all(&parent).with_context(|| format!("rm -r {}", parent.display()))?;
    }
    apt.unpack_into(&root, &PACKAGES, &LEFT_OUT, &PRUNED)?;
    let size = write_archive(&root)?;
    fs::write(parent.join("stamp"), wanted_stamp()).context("cannot write the guest's stamp")?;
    Ok(format!("{} MB", size >> 20))
}

/// Directories that recent Debian releases have merged into /usr.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

fn write_archive(root: &Path) -> Result<u64> {
    let path = archive();
    let mut archive = Archive::create(&path)?;
    for directory in [
        "dev",
        "etc",
        "mnt",
        "mnt/test",
        "proc",
        "root",
        "run",
        "sys",
        "tmp",
        "usr",
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "usr/sbin",
        "var",
    ] {
        archive.directory(directory, 0o755)?;
    }
    for merged in MERGED {
        archive.symlink(merged, &format!("usr/{merged}"))?;
    }
    archive.symlink("var/run", "/run")?;
    archive.file(
        "etc/passwd",
        0o644,
        format!("root:x:0:0::{HOME}:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n").as_bytes(),
    )?;
    archive.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    archive.file("etc/hosts", 0o644, b"127.0.0.1 localhost premod\n")?;
    let mut programs = HashSet::new();
    add_tree(&mut archive, root, "", &mut programs)?;
    // busybox fills in whatever Debian's packages do not bring.
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|file| root.join(file));
    let busybox = busybox
        .iter()
        .find(|file| file.is_file())
        .context("busybox is missing")?;
    for path in exec::stdout(Command::new(busybox).arg("--list-full"))?.lines() {
        let (directory, applet) = path.rsplit_once('/').unwrap_or(("", path));
        // The kernel itself looks for some, modprobe above all, in /sbin.
        let directory = if directory.ends_with("sbin") {
            "sbin"
        } else {
            "bin"
        };
        if !programs.contains(applet) {
            archive.symlink(&format!("usr/{directory}/{applet}"), "/usr/bin/busybox")?;
        }
    }
    archive.finish()?;
    let metadata = fs::metadata(&path).with_context(|| format!("stat {}", path.display()))?;
    Ok(metadata.len())
}

/// Adds a directory's content, with merged directories below /usr, and collects program names.
fn add_tree(
    archive: &mut Archive,
    root: &Path,
    below: &str,
    programs: &mut HashSet<String>,
) -> Result<()> {
    let directory = root.join(below);
    let mut entries: Vec<_> = fs::read_dir(&directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let file = entry.file_name().to_string_lossy().into_owned();
        let source = if below.is_empty() {
            file.clone()
        } else {
            format!("{below}/{file}")
        };
        let first = source.split('/').next().unwrap_or_default();
        let name = if MERGED.contains(&first) {
            format!("usr/{source}")
        } else {
            source.clone()
        };
        let metadata = entry.metadata().with_context(|| format!("stat {source}"))?;
        if metadata.is_dir() {
            archive.directory(&name, 0o755)?;
            add_tree(archive, root, &source, programs)?;
            continue;
        }
        if name.starts_with("usr/bin/") || name.starts_with("usr/sbin/") {
            programs.insert(file);
        }
        if metadata.is_symlink() {
            let target =
                fs::read_link(entry.path()).with_context(|| format!("readlink {source}"))?;
            archive.symlink(&name, &target.to_string_lossy())?;
        } else {
            let bytes = fs::read(entry.path()).with_context(|| format!("cannot read {source}"))?;
            archive.file(&name, metadata.permissions().mode() & 0o7777, &bytes)?;
        }
    }
    Ok(())
}
