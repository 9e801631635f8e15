//! Lock files: a lock that is gone when its process is, and a file that says who has it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::test_kill_process,
};

use crate::events::Pid;

/// How long to try while nobody who lives seems to have the lock. Whoever tidies up after a dead process
/// takes it for a moment, and a new owner needs one to write down who it is.
const PATIENCE: Duration = Duration::from_millis(200);

/// An exclusive lock on a file whose content is the owner's process id. It is let go and the file removed
/// on drop; if the process is killed the lock is free and the file stays.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Somebody has it.
    Held,
    /// The file cannot be opened or locked.
    Broken(io::Error),
}

impl Lock {
    /// Takes the lock for this process.
    pub(super) fn take(path: &Path) -> Result<Self, Refusal> {
        let began = Instant::now();
        loop {
            if let Some(mut lock) = Self::attempt(path, true).map_err(Refusal::Broken)? {
                lock.sign().map_err(Refusal::Broken)?;
                return Ok(lock);
            }
            let owner = owner(path);
            if owner.is_some_and(is_alive) || began.elapsed() > PATIENCE {
                return Err(Refusal::Held);
            }
            sleep(Duration::from_millis(2));
        }
    }

    /// Takes the lock if it was left behind: the file is there, and nobody has the lock. Dropping what is
    /// returned removes the file.
    pub(super) fn take_stale(path: &Path) -> io::Result<Option<Self>> {
        match Self::attempt(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other,
        }
    }

    /// Whether somebody has the lock.
    pub(super) fn is_held(path: &Path) -> io::Result<bool> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path);
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        loop {
            // Shared, so that of two who ask neither takes the other for the owner.
            match flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Ok(false),
                Err(Errno::WOULDBLOCK) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn attempt(path: &Path, create: bool) -> io::Result<Option<Self>> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(create)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // The one who had it before may have removed the file: then this lock keeps nobody out.
            if is_at(&file, path)? {
                let path = path.to_owned();
                return Ok(Some(Self { file, path }));
            }
        }
    }

    fn sign(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        writeln!(self.file, "{}", std::process::id())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock is let go, or it would be somebody else's file. If it cannot be removed, it is
        // taken for what it is: a file without a lock.
        if is_at(&self.file, &self.path).unwrap_or(false) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The process that has written itself into the lock file.
pub(super) fn owner(path: &Path) -> Option<Pid> {
    let mut text = String::new();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path);
    file.ok()?.take(32).read_to_string(&mut text).ok()?;
    text.strip_suffix('\n')?.parse().ok().map(Pid)
}

fn is_alive(pid: Pid) -> bool {
    let pid = i32::try_from(pid.0).ok();
    let pid = pid.and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
