//! Which files are claimed: for each a link that names its claim, and for each claim one lock.
//!
//! A file costs no descriptor that way. A link counts for as long as the lock of the claim that it names is held, and
//! that ends with its process. Whoever makes or removes links of others has the directory locked meanwhile.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::fs::{FlockOperation, flock};

use super::lock::Lock;
use crate::{events::Pid, freeze::hold::processes::started};

/// The links of one claim. They are removed on drop; if the process is killed they stay, and lead nowhere.
#[derive(Debug)]
pub(super) struct Links {
    links: Vec<PathBuf>,
    _lock: Lock,
}

/// Why there are no links.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The file of this number is claimed already, by this process.
    Claimed(usize, Option<Pid>),
    /// It cannot be done.
    Broken(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Links {
    /// Makes links of these names in `directory`, or none.
    pub(super) fn make(directory: &Path, names: &[String]) -> Result<Self, Refusal> {
        let _alone = alone(directory)?;
        for (number, name) in names.iter().enumerate() {
            let link = directory.join(name);
            if let Some(claim) = claim_of(&link)? {
                return Err(Refusal::Claimed(number, owner(&claim)));
            }
            if let Err(error) = fs::remove_file(&link)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error.into());
            }
        }
        let claim = new_claim();
        let lock = Lock::take(&directory.join(&claim)).map_err(|refusal| match refusal {
            super::lock::Refusal::Held => io::ErrorKind::AlreadyExists.into(),
            super::lock::Refusal::Broken(error) => error,
        })?;
        let mut made = Self {
            links: Vec::with_capacity(names.len()),
            _lock: lock,
        };
        for name in names {
            let link = directory.join(name);
            symlink(&claim, &link)?;
            made.links.push(link);
        }
        Ok(made)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for link in &self.links {
            // If it cannot be removed, it leads nowhere in a moment.
            let _ = fs::remove_file(link);
        }
    }
}

/// The process that has claimed the file of this link.
pub(super) fn claimed_by(link: &Path) -> io::Result<Option<Pid>> {
    Ok(claim_of(link)?.and_then(|claim| owner(&claim)))
}

/// Removes the links that lead nowhere.
pub(super) fn tidy(directory: &Path) -> io::Result<()> {
    let _alone = alone(directory)?;
    for entry in fs::read_dir(directory)? {
        let link = entry?.path();
        if link.is_symlink() && matches!(claim_of(&link), Ok(None)) {
            let _ = fs::remove_file(link);
        }
    }
    Ok(())
}

/// Nobody else makes or removes links until this is dropped.
fn alone(directory: &Path) -> io::Result<File> {
    let directory = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(directory)?;
    loop {
        match flock(&directory, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(directory),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A name that no claim has had or will have: the process, when it began, and a number.
fn new_claim() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let began = started(pid).unwrap_or(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{pid}-{began}-{number}")
}

/// The claim that a link names, if it is held.
fn claim_of(link: &Path) -> io::Result<Option<PathBuf>> {
    let claim = match fs::read_link(link) {
        Ok(claim) => link.with_file_name(claim),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Lock::is_held(&claim)?.then_some(claim))
}

/// The process that has made a claim.
fn owner(claim: &Path) -> Option<Pid> {
    let (pid, _) = claim.file_name()?.to_str()?.split_once('-')?;
    pid.parse().ok().map(Pid)
}
