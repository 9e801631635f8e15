//! Where the maps of freezes are pinned, so that whoever is left stopped can be continued though premod and its keeper
//! were both killed: /sys/fs/bpf/premod/PID-BEGAN, a directory for each freeze.
//!
//! Where others may write into the BPF filesystem (it is mounted with mode 1777 by some), anybody can be there first. So
//! nothing is used or removed but what is root's own, no link is followed, and only the names that premod gives are
//! removed.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use crate::{
    error::Error,
    freeze::{hold::processes::started, private},
};

/// Where the BPF filesystem is mounted.
const BPFFS: &str = "/sys/fs/bpf";
/// The directory in it that is premod's.
const OURS: &str = "premod";
/// `BPF_FS_MAGIC` of linux/magic.h.
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

/// The maps that are pinned for each freeze, by their names in the object and in the directory.
pub(crate) const MAPS: [(&str, &str); 6] = [
    ("SWITCH", "switch"),
    ("TALLY", "tally"),
    ("HELD", "held"),
    ("SEIZED", "seized"),
    ("STOPPED_THEMSELVES", "stopped"),
    ("WAITING", "waiting"),
];

/// The directory in which the maps of one freeze are pinned. It is removed on drop.
#[derive(Debug)]
pub(crate) struct Pins(PathBuf);

impl Pins {
    /// Makes the directory of this process's freeze.
    pub(crate) fn make() -> Result<Self, Error> {
        let failed = |reason: String| Error::Kernel {
            context: format!("cannot make a place for the freeze's maps in {BPFFS}"),
            reason,
        };
        mount_bpffs().map_err(|error| failed(error.to_string()))?;
        let pid = std::process::id();
        let began = started(pid).ok_or_else(|| failed("/proc is not mounted".to_owned()))?;
        let root = Path::new(BPFFS).join(OURS);
        make(&root).map_err(|error| failed(error.to_string()))?;
        trusted()?;
        let directory = root.join(format!("{pid}-{began}"));
        // Nobody but this very process can have made it already.
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => Ok(Self(directory)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(failed(
                "this process freezes a set of files already".to_owned(),
            )),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// The directories of all freezes, dead ones too.
///
/// # Errors
/// If others than root could have made them.
pub(crate) fn all() -> Result<Vec<PathBuf>, Error> {
    let Some((path, root)) = trusted()? else {
        return Ok(Vec::new());
    };
    let entries = fs::read_dir(&path).into_iter().flatten().flatten();
    let is_ours = |name: &Path| {
        owner(name).is_some() && open(&root, name).is_ok_and(|it| private::check(&it, 0).is_ok())
    };
    Ok(entries
        .filter(|entry| is_ours(Path::new(&entry.file_name())))
        .map(|entry| path.join(entry.file_name()))
        .collect())
}

/// Removes a directory of pins, and premod's own if it was the last one. What cannot be removed harms nobody.
pub(crate) fn remove(directory: &Path) {
    let Ok(Some((_, root))) = trusted() else {
        return;
    };
    let Some(name) = directory.file_name().map(Path::new) else {
        return;
    };
    if let Ok(pins) = open(&root, name)
        && private::check(&pins, 0).is_ok()
    {
        for (_, map) in MAPS {
            let _ = unlinkat(&pins, map, AtFlags::empty());
        }
        let _ = unlinkat(&root, name, AtFlags::REMOVEDIR);
    }
    let _ = fs::remove_dir(Path::new(BPFFS).join(OURS));
}

/// Whether the premod that has made this directory lives no more.
pub(crate) fn is_orphan(directory: &Path) -> bool {
    owner(directory).is_none_or(|(pid, began)| started(pid) != Some(began))
}

/// The process that a directory of pins belongs to, and when it began.
fn owner(directory: &Path) -> Option<(u32, u64)> {
    let name = directory.file_name()?.to_str()?;
    let (pid, began) = name.split_once('-')?;
    Some((pid.parse().ok()?, began.parse().ok()?))
}

/// premod's directory, if there is one and nobody but root can have put anything there.
fn trusted() -> Result<Option<(PathBuf, File)>, Error> {
    let path = Path::new(BPFFS).join(OURS);
    let unusable = |path: &Path, reason: &str| Error::RunDirectory {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let opened = |path: &Path| {
        let directory = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path);
        match directory {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened
                .map(Some)
                .map_err(|error| unusable(path, &error.to_string())),
        }
    };
    let Some(filesystem) = opened(Path::new(BPFFS))? else {
        return Ok(None);
    };
    private::check_names(&filesystem, 0).map_err(|why| unusable(Path::new(BPFFS), why))?;
    let Some(directory) = opened(&path)? else {
        return Ok(None);
    };
    private::check(&directory, 0).map_err(|why| {
        unusable(
            &path,
            &format!("{why}; remove it, and premod makes a new one"),
        )
    })?;
    Ok(Some((path, directory)))
}

fn open(root: &File, name: &Path) -> io::Result<File> {
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(root.as_fd(), name, how, Mode::empty())?.into())
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// systemd has it mounted; where nobody has, we do as bpftool does.
fn mount_bpffs() -> io::Result<()> {
    let status = rustix::fs::statfs(BPFFS)?;
    if status.f_type as u64 & 0xffff_ffff == BPFFS_MAGIC {
        return Ok(());
    }
    let flags = rustix::mount::MountFlags::NOSUID
        | rustix::mount::MountFlags::NODEV
        | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount("bpf", BPFFS, "bpf", flags, c"mode=0700")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_tell_whose_they_are() {
        assert_eq!(
            owner(Path::new("/sys/fs/bpf/premod/12-345")),
            Some((12, 345))
        );
        assert_eq!(owner(Path::new("/sys/fs/bpf/premod/x")), None);
    }
}
