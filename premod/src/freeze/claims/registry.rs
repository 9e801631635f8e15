//! The run directory, in which premod processes find each other.
//!
//! ```text
//! /run/premod/                 root's alone
//!   4711.sock                  where the set of premod 4711 answers
//!   locks/4711.sock            locked by whoever listens there
//!   locks/4711-8230-0          locked by premod 4711 for as long as its claim lasts
//!   locks/259:2-131            names the claim on inode 131 of device 259:2: a link to 4711-8230-0
//!   programs-6c1d4e2f09ab3758  which programs all freezes share
//!   ended/4711-8230            how a freeze was that has ended behind everybody's back
//! ```
//!
//! The locks are premod's own files: a lock on the user's file could meet the user's own locks. All of
//! them are gone when their process is, whatever killed it. What is left of it then, a file without a lock
//! and a socket without a listener, is recognised by that and removed by whoever comes next.

use std::{
    io,
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

pub use super::file_id::FileId;
use super::{
    control::Peer,
    ended,
    file_id::name_of,
    links::{self, Links},
    lock::{Lock, Refusal},
    server::Server,
};
use crate::{
    Error,
    events::Pid,
    freeze::{private, report::SetReport},
};

/// Where the run directory is.
pub const RUN_DIRECTORY: &str = "/run/premod";

/// The run directory.
#[derive(Clone, Debug)]
pub struct Registry {
    directory: PathBuf,
    /// The user who owns it, and who alone may ask: root.
    user: u32,
}

impl Registry {
    /// Opens the run directory, and makes it if need be.
    ///
    /// # Errors
    /// If it cannot be made, or others than root could write into it.
    pub fn open() -> Result<Self, Error> {
        Self::open_in(Path::new(RUN_DIRECTORY), 0)
    }

    /// Where it is.
    pub(in crate::freeze) fn path(&self) -> &Path {
        &self.directory
    }

    /// Opens the run directory if there is one; if not, nothing is frozen.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn find() -> Result<Option<Self>, Error> {
        let directory = Path::new(RUN_DIRECTORY);
        match std::fs::symlink_metadata(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Self::open().map(Some),
        }
    }

    /// A run directory elsewhere, which belongs to this user.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_in(directory: &Path, user: u32) -> Result<Self, Error> {
        let locks = directory.join("locks");
        for directory in [directory, &locks] {
            let made = std::fs::DirBuilder::new().mode(0o700).create(directory);
            match made {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(unusable(directory, error));
                }
                _ => trustworthy(directory, user)?,
            }
        }
        let directory = directory.to_owned();
        Ok(Self { directory, user })
    }

    /// The same directory, with answers for this user only.
    #[cfg(test)]
    pub(in crate::freeze) fn with_user(&self, user: u32) -> Self {
        let directory = self.directory.clone();
        Self { directory, user }
    }

    /// Claims all these files for this process, or none. A file that comes twice is claimed once.
    ///
    /// # Errors
    /// [`Error::Busy`] if a file is claimed already, by another process or by this one.
    pub fn claim(&self, files: &[BorrowedFd<'_>]) -> Result<Claim, Error> {
        let identified = files.iter().map(|file| Ok((FileId::of(*file)?, *file)));
        let mut files = identified.collect::<Result<Vec<_>, Error>>()?;
        // In the same order everywhere, so that of two who want the same files one gets all.
        files.sort_by_key(|(id, _)| *id);
        files.dedup_by_key(|(id, _)| *id);
        let ids: Vec<_> = files.iter().map(|(id, _)| *id).collect();
        let names: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let links = Links::make(&self.locks(), &names).map_err(|refusal| match refusal {
            links::Refusal::Claimed(number, pid) => {
                let (id, file) = files[number];
                let path = name_of(file, id);
                Error::Busy { path, pid }
            }
            links::Refusal::Broken(error) => unusable(&self.locks(), error),
        })?;
        ended::forget(&self.ended(), &ids);
        Ok(Claim {
            _links: links,
            registry: self.clone(),
        })
    }

    /// Every premod that holds a set, by process id. What dead ones have left is removed.
    ///
    /// # Errors
    /// If the run directory cannot be read.
    pub fn peers(&self) -> Result<Vec<Peer>, Error> {
        self.tidy()?;
        let mut peers = Vec::new();
        for entry in self.entries(&self.directory)? {
            let pid = entry.file_name().and_then(|name| {
                let pid = name.to_str()?.strip_suffix(".sock")?;
                pid.parse().ok().map(Pid)
            });
            peers.extend(pid.map(|pid| self.peer(pid)));
        }
        peers.sort_by_key(Peer::pid);
        Ok(peers)
    }

    /// The premod that freezes this file, if one does.
    ///
    /// # Errors
    /// If its lock cannot be looked at.
    pub fn owner(&self, file: FileId) -> Result<Option<Peer>, Error> {
        let path = self.locks().join(file.to_string());
        let owner = links::claimed_by(&path).map_err(|error| unusable(&path, error))?;
        Ok(owner.map(|pid| self.peer(pid)))
    }

    /// Removes what dead processes have left. What cannot be removed harms nobody.
    fn tidy(&self) -> Result<(), Error> {
        links::tidy(&self.locks()).map_err(|error| unusable(&self.locks(), error))?;
        for path in self.entries(&self.locks())? {
            let Ok(Some(_lock)) = Lock::take_stale(&path) else {
                continue;
            };
            // While the lock is ours, nobody with that process id can begin to listen.
            if let Some(name) = path.file_name()
                && path
                    .extension()
                    .is_some_and(|extension| extension == "sock")
            {
                let socket = self.directory.join(name);
                let _ = std::fs::remove_file(socket.with_extension("new"));
                let _ = std::fs::remove_file(socket);
            }
        }
        Ok(())
    }

    fn entries(&self, directory: &Path) -> Result<Vec<PathBuf>, Error> {
        let entries = std::fs::read_dir(directory).and_then(Iterator::collect);
        let entries: Vec<std::fs::DirEntry> =
            entries.map_err(|error| unusable(&self.directory, error))?;
        Ok(entries.iter().map(std::fs::DirEntry::path).collect())
    }

    fn peer(&self, pid: Pid) -> Peer {
        Peer::new(pid, self.socket(pid))
    }

    fn socket(&self, pid: Pid) -> PathBuf {
        self.directory.join(format!("{}.sock", pid.0))
    }

    /// How the last freeze of this file was, if it has ended without anybody to be told that it was violated. It is
    /// told once.
    #[must_use]
    pub fn take_ended(&self, file: FileId) -> Option<SetReport> {
        ended::take(&self.ended(), file)
    }

    /// The same of all files.
    #[must_use]
    pub fn take_all_ended(&self) -> Vec<SetReport> {
        ended::take_all(&self.ended())
    }

    fn ended(&self) -> PathBuf {
        self.directory.join("ended")
    }

    fn locks(&self) -> PathBuf {
        self.directory.join("locks")
    }
}

/// Files that this process may freeze. They are free again on drop, or when the process has ended.
///
/// It costs one open descriptor, to which the lock belongs: a child that is forked and not executed keeps it, and has
/// to close it. A process that becomes a daemon claims when it is one, because the claim has its process id.
#[derive(Debug)]
pub struct Claim {
    _links: Links,
    registry: Registry,
}

impl Claim {
    /// Keeps the report of a freeze that nobody waits for, for whoever comes to thaw its files.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, report: &SetReport) -> Result<(), Error> {
        let directory = self.registry.ended();
        ended::keep(&directory, report).map_err(|error| unusable(&directory, error))
    }

    /// Begins to listen for requests about this set. Has to be called in a tokio runtime.
    ///
    /// # Errors
    /// If the socket cannot be made, or this process listens for another set already.
    pub fn listen(&self) -> Result<Server, Error> {
        let path = self.registry.socket(Pid(std::process::id()));
        let name = path.file_name().unwrap_or_default();
        let lock = self.registry.locks().join(name);
        let lock = Lock::take(&lock).map_err(|refusal| {
            let error = match refusal {
                Refusal::Held => io::ErrorKind::AddrInUse.into(),
                Refusal::Broken(error) => error,
            };
            unusable(&path, error)
        })?;
        Server::bind(&path, lock, self.registry.user).map_err(|error| unusable(&path, error))
    }
}

/// Whoever could write into the directory could pretend to be premod.
fn trustworthy(directory: &Path, user: u32) -> Result<(), Error> {
    let open = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(directory);
    let opened = open.map_err(|error| unusable(directory, error))?;
    private::check(&opened, user).map_err(|reason| Error::RunDirectory {
        path: directory.to_owned(),
        reason: format!("{reason}; remove it, and premod makes a new one"),
    })
}

fn unusable(path: &Path, error: io::Error) -> Error {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Error::RootOnly { path },
        io::ErrorKind::AddrInUse => Error::RunDirectory {
            path,
            reason: "this process freezes a set of files already".to_owned(),
        },
        _ => Error::RunDirectory {
            path,
            reason: error.to_string(),
        },
    }
}
