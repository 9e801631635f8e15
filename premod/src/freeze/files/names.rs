//! The names on the ways to the files, as the paths were given: whoever renames, replaces or removes one of them makes a
//! path lead to another file, be it for a moment.
//!
//! The kernel side knows a name by its dentry (`premod-ebpf/src/freeze/names.rs`). A dentry keeps those above it in memory;
//! what is not above its file any more (a symbolic link, a directory that `..` leaves) is held open.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, fstatfs, openat, readlinkat};

use super::target::Target;
use crate::{
    error::Error,
    freeze::{guards::Guards, users::Unknown},
};

/// Links that the kernel follows in one path (`MAXSYMLINKS`).
const LINKS: usize = 40;
/// `PROC_SUPER_MAGIC` of linux/magic.h. Its links lead to files, not to names.
const PROC: u64 = 0x9fa0;
/// How often names may change while they are looked up.
const TRIES: usize = 16;

/// The names that are watched.
#[derive(Default)]
pub(crate) struct Names {
    /// The files behind each dentry, by their number among the targets.
    files: HashMap<u64, Vec<usize>>,
    /// What keeps dentries in memory.
    held: Vec<OwnedFd>,
}

/// Where a walk has come to, and by which names.
struct Way {
    at: OwnedFd,
    dentries: Vec<u64>,
}

impl Names {
    /// Watches all names on the ways to the targets.
    ///
    /// # Errors
    /// If a path cannot be walked, or does not lead to its file any more.
    pub(crate) fn watch(guards: &mut Guards, targets: &[Target]) -> Result<Self, Unknown> {
        let own = targets.iter().map(|target| guards.look(target.as_fd()));
        let own = own.map(|look| look.map(|look| look.dentry));
        let own: Vec<u64> = own.collect::<Result<_, Error>>()?;
        let mut names = Self::default();
        for _ in 0..TRIES {
            // A name that has changed before it was watched is found by the next walk.
            if names.walk_all(guards, targets, &own)? == 0 {
                return Ok(names);
            }
        }
        let why = "somebody renames or replaces names on their paths all the time";
        Err(Unknown::Why(why.to_owned()))
    }

    /// The files that this dentry is on the way to.
    pub(crate) fn files(&self, dentry: u64) -> &[usize] {
        self.files.get(&dentry).map_or(&[], Vec::as_slice)
    }

    /// Walks all ways; how many names were not watched yet.
    fn walk_all(
        &mut self,
        guards: &mut Guards,
        targets: &[Target],
        own: &[u64],
    ) -> Result<usize, Error> {
        let mut new = 0;
        let mut parent: Option<(PathBuf, Way)> = None;
        for (number, target) in targets.iter().enumerate() {
            for path in target.paths() {
                let failed = |error: io::Error| Error::Kernel {
                    context: format!("cannot watch the names on the path {}", path.display()),
                    reason: error.to_string(),
                };
                let directory = path.parent().unwrap_or(path);
                if parent.as_ref().is_none_or(|(known, _)| known != directory) {
                    let root = Way {
                        at: root().map_err(failed)?,
                        dentries: Vec::new(),
                    };
                    let way = self.walk(guards, root, directory, failed)?;
                    parent = Some((directory.to_owned(), way));
                }
                let Some((_, above)) = &parent else { continue };
                let begin = Way {
                    at: above.at.try_clone().map_err(failed)?,
                    dentries: above.dentries.clone(),
                };
                let name = Path::new(path.file_name().unwrap_or(OsStr::new(".")));
                let way = self.walk(guards, begin, name, failed)?;
                target.must_be(way.at.as_fd(), path)?;
                // The target holds its own.
                let known = |last: &u64| own[number] == *last || self.files.contains_key(last);
                if !way.dentries.last().is_some_and(known) {
                    self.held.push(way.at);
                }
                let dentries: HashSet<u64> = way.dentries.into_iter().collect();
                for dentry in dentries {
                    let files = self.files.entry(dentry).or_default();
                    if files.is_empty() {
                        guards.watch_name(dentry)?;
                        new += 1;
                    }
                    if files.last() != Some(&number) {
                        files.push(number);
                    }
                }
            }
        }
        Ok(new)
    }

    fn walk(
        &mut self,
        guards: &mut Guards,
        mut way: Way,
        path: &Path,
        failed: impl Fn(io::Error) -> Error,
    ) -> Result<Way, Error> {
        let mut left = parts(path);
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                let above = open(way.at.as_fd(), &name, OFlags::DIRECTORY).map_err(&failed)?;
                self.held.push(std::mem::replace(&mut way.at, above));
                continue;
            }
            let next = open(way.at.as_fd(), &name, OFlags::NOFOLLOW).map_err(&failed)?;
            let kind = fstat(&next).map_err(|error| failed(error.into()))?.st_mode;
            if FileType::from_raw_mode(kind) != FileType::Symlink {
                way.dentries.push(guards.look(next.as_fd())?.dentry);
                way.at = next;
                continue;
            }
            links += 1;
            if links > LINKS {
                return Err(failed(io::Error::from_raw_os_error(libc::ELOOP)));
            }
            if fstatfs(&next).is_ok_and(|status| status.f_type as u64 == PROC) {
                let behind = open(way.at.as_fd(), &name, OFlags::empty()).map_err(&failed)?;
                self.held.push(std::mem::replace(&mut way.at, behind));
                continue;
            }
            let dentry = guards.look(next.as_fd())?.dentry;
            way.dentries.push(dentry);
            let text = readlinkat(&next, "", Vec::new()).map_err(|error| failed(error.into()))?;
            let text = PathBuf::from(OsString::from_vec(text.into_bytes()));
            if !self.files.contains_key(&dentry) {
                self.held.push(next);
            }
            if text.is_absolute() {
                way.at = root().map_err(&failed)?;
            }
            for part in parts(&text).into_iter().rev() {
                left.push_front(part);
            }
        }
        Ok(way)
    }
}

fn root() -> io::Result<OwnedFd> {
    open(CWD, OsStr::new("/"), OFlags::DIRECTORY)
}

fn open(directory: BorrowedFd<'_>, name: &OsStr, how: OFlags) -> io::Result<OwnedFd> {
    let how = how | OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat(directory, name.as_bytes(), how, Mode::empty())?)
}

/// The names in a path, and `..`.
fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_names_that_the_kernel_looks_up() {
        assert_eq!(
            parts(Path::new("/a/./b//../c")),
            ["a", "b", "..", "c"].map(OsString::from)
        );
        assert!(parts(Path::new("/")).is_empty());
    }
}
