//! Brings the machine up: file systems, modules, disks.

use std::{
    ffi::CString,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, mount, mount_bind};

/// What is mounted before anything else: type, directory, options, and whether it must work.
const KERNEL_FILESYSTEMS: [(&str, &str, &str, bool); 13] = [
    ("proc", "/proc", "", true),
    ("sysfs", "/sys", "", true),
    ("devtmpfs", "/dev", "", true),
    ("devpts", "/dev/pts", "ptmxmode=666,mode=620", true),
    ("tmpfs", "/dev/shm", "mode=1777", true),
    ("tmpfs", "/tmp", "mode=1777", true),
    ("tmpfs", "/run", "mode=755", true),
    ("securityfs", "/sys/kernel/security", "", true),
    ("tracefs", "/sys/kernel/tracing", "", true),
    ("debugfs", "/sys/kernel/debug", "", false),
    ("bpf", "/sys/fs/bpf", "mode=700", true),
    ("cgroup2", "/sys/fs/cgroup", "", true),
    ("mqueue", "/dev/mqueue", "", false),
];

/// Mounts everything that holds the kernel's own files.
pub(crate) fn mount_kernel_filesystems() -> Result<()> {
    for (kind, directory, options, needed) in KERNEL_FILESYSTEMS {
        // The directories below /sys are the kernel's: they exist, or the kernel lacks the type.
        if !directory.starts_with("/sys/") {
            fs::create_dir_all(directory).with_context(|| format!("mkdir {directory}"))?;
        }
        let options = CString::new(options)?;
        let result = mount(
            kind,
            directory,
            kind,
            MountFlags::empty(),
            options.as_c_str(),
        );
        if needed {
            result.with_context(|| format!("cannot mount {kind} at {directory}"))?;
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/etc/mtab", "/proc/self/mounts"),
    ] {
        match symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot link {link}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Loads the modules the host lists, in its order: it has computed their dependencies.
pub(crate) fn load_modules() -> Result<()> {
    for module in crate::instruction("modules")?.lines() {
        let file = fs::File::open(module).with_context(|| format!("cannot open {module}"))?;
        match rustix::system::finit_module(&file, c"", 0) {
            // Built in, or already pulled in by an alias.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => bail!("cannot load {module}: {error}"),
        }
    }
    Ok(())
}

/// The small settings that programs take for granted.
pub(crate) fn configure() -> Result<()> {
    rustix::system::sethostname(b"premod").context("cannot set the host name")?;
    busybox(&["ip", "link", "set", "lo", "up"])?;
    let limit = rustix::process::Rlimit {
        current: Some(1024),
        maximum: Some(524_288),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)
        .context("cannot raise the limit of open files")?;
    Ok(())
}

/// Mounts the test disks: with one file system at /mnt/test, with several each at /mnt/TYPE and
/// the first at /mnt/test too. Returns the directories in the order in which they were mounted.
pub(crate) fn mount_disks() -> Result<Vec<PathBuf>> {
    let filesystems = crate::instruction("filesystems")?;
    let filesystems: Vec<&str> = filesystems.lines().collect();
    let mut mounted = Vec::new();
    let shared = Path::new("/mnt/test");
    for kind in &filesystems {
        let directory = if filesystems.len() == 1 {
            shared.to_owned()
        } else {
            Path::new("/mnt").join(kind)
        };
        fs::create_dir_all(&directory).with_context(|| format!("mkdir {}", directory.display()))?;
        let device = disk(kind)?;
        mount(&device, &directory, *kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {} as {kind}", device.display()))?;
        mounted.push(directory);
    }
    if let [first, _, ..] = mounted.as_slice() {
        fs::create_dir_all(shared).context("mkdir /mnt/test")?;
        mount_bind(first, shared).context("cannot bind /mnt/test")?;
        mounted.push(shared.to_owned());
    }
    Ok(mounted)
}

/// The virtio disk whose serial is `serial`: the order of the devices is nothing to rely on.
fn disk(serial: &str) -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/block").context("cannot list /sys/block")? {
        let entry = entry.context("cannot list /sys/block")?;
        let found = fs::read_to_string(entry.path().join("serial"));
        if found.is_ok_and(|found| found.trim() == serial) {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    bail!("no disk has the serial {serial}")
}

/// Runs a busybox applet.
fn busybox(arguments: &[&str]) -> Result<()> {
    let status = Command::new("/bin/busybox")
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run busybox {}", arguments.join(" ")))?;
    if !status.success() {
        bail!("busybox {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}
