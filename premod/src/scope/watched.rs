//! A PATH: a name, and what has it now.

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use premod_common::{
    inode::{InodeAddress, ScopeRoot},
    watched::{NAMES_BELOW, Watched as Expected, WatchedName},
};
use rustix::fs::{AtFlags, CWD, FileType};

use super::{
    check,
    resolve::{Identity, Node, Resolved, leads_nowhere},
};
use crate::{
    error::Error,
    events::PathChanged,
    kernel::enrol::{Enroller, Learnt},
};

/// What the kernel side is to know: an entry for each inode of the scope map, and for each name.
#[derive(Default)]
pub(super) struct Enrolment {
    pub(super) roots: HashMap<InodeAddress, u32>,
    pub(super) names: HashMap<WatchedName, Expected>,
}

impl Enrolment {
    pub(super) fn add_root(&mut self, inode: InodeAddress, kind: ScopeRoot) {
        let root = self.roots.entry(inode).or_default();
        // A PATH may be a directory above another.
        *root = *root & NAMES_BELOW | kind as u32;
    }

    fn add_name(&mut self, name: WatchedName, expected: Expected) {
        *self.roots.entry(name.directory).or_default() |= NAMES_BELOW;
        let known = self.names.entry(name).or_default();
        known.inode = expected.inode;
        known.flags |= expected.flags;
    }

    /// With what another PATH needs.
    pub(super) fn add(&mut self, other: &Self) {
        for (&inode, &root) in &other.roots {
            *self.roots.entry(inode).or_default() |= root;
        }
        for (&name, &expected) in &other.names {
            self.add_name(name, expected);
        }
    }
}

/// What has the PATH's name.
struct Found {
    identity: Identity,
    kind: ScopeRoot,
    /// Without symbolic links.
    canonical: PathBuf,
}

/// A name on the way: its directory, what has it, and where that leads to if it is a symbolic link.
type Name = (Identity, Option<Identity>, Option<OsString>);

/// Directories that stay open for several PATHs.
#[derive(Default)]
pub(super) struct Shared(HashMap<Identity, Weak<OwnedFd>>);

impl Shared {
    fn hold(&mut self, node: &Node) -> io::Result<Arc<OwnedFd>> {
        if let Some(held) = self.0.get(&node.identity).and_then(Weak::upgrade) {
            return Ok(held);
        }
        self.0.retain(|_, held| held.strong_count() > 0);
        let held = Arc::new(node.file.try_clone()?);
        self.0.insert(node.identity, Arc::downgrade(&held));
        Ok(held)
    }
}

/// A PATH that is watched.
pub(crate) struct Watched {
    given: PathBuf,
    absolute: PathBuf,
    found: Option<Found>,
    /// The way to it, by which a change is noticed.
    way: Vec<Name>,
    /// What the kernel side was told.
    pub(super) enrolment: Enrolment,
    /// What it leads to, or where it ends, stays open, so that its inode stays in memory and keeps its address, and its
    /// number is not used again. What is above stays in memory with it.
    kept: Option<OwnedFd>,
    /// The same for the directories of the symbolic links on the way, which need not lie above.
    of_links: Vec<Arc<OwnedFd>>,
    /// It was said that what is there now cannot be traced.
    complained: bool,
}

impl Watched {
    /// Looks at a PATH. If nothing has the name it is an error, or waited for.
    pub(crate) fn open(given: &Path, wait: bool) -> Result<Self, Error> {
        let failed = |source| Error::Path {
            path: given.to_owned(),
            source,
        };
        let absolute = std::path::absolute(given).map_err(failed)?;
        let mut watched = Self {
            given: given.to_owned(),
            absolute,
            found: None,
            way: Vec::new(),
            enrolment: Enrolment::default(),
            kept: None,
            of_links: Vec::new(),
            complained: false,
        };
        // Lets the kernel mount what it mounts when a name is looked up (autofs).
        let _ = rustix::fs::stat(&watched.absolute);
        let resolved = Resolved::of(&watched.absolute).map_err(failed)?;
        match resolved.end {
            Ok(_) => watched.found = Some(watched.look_at(&resolved)?),
            Err(errno) if !wait || errno == rustix::io::Errno::LOOP => {
                return Err(failed(errno.into()));
            }
            Err(_) => {}
        }
        watched.keep(resolved, &mut Shared::default());
        Ok(watched)
    }

    pub(super) fn given(&self) -> &Path {
        &self.given
    }

    /// Nothing has the name, or nothing that can be traced.
    pub(super) fn is_gone(&self) -> bool {
        self.found.is_none()
    }

    /// Whether symbolic links are on the way.
    pub(super) fn has_links(&self) -> bool {
        self.enrolment
            .names
            .values()
            .any(|expected| expected.flags & Expected::LINKS != 0)
    }

    /// The directory that has the name.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.found
            .as_ref()
            .filter(|found| found.kind == ScopeRoot::Directory)
            .map(|found| found.canonical.as_path())
    }

    /// A cheap look: whether something else has the name than before.
    pub(super) fn seems_changed(&self) -> bool {
        let before = self.found.as_ref().map(|found| found.identity);
        match rustix::fs::statat(CWD, &self.absolute, AtFlags::NO_AUTOMOUNT) {
            Ok(status) => before != Some((status.st_dev, status.st_ino)),
            Err(errno) => leads_nowhere(errno) && before.is_some(),
        }
    }

    /// Looks the PATH up, and asks the kernel for the inodes on the way if it has changed, or if `anew`. What has become
    /// of what the PATH leads to, and whether anything has changed.
    ///
    /// # Errors
    /// If the kernel does not answer; and if the PATH leads to something that cannot be traced, which then counts as gone.
    pub(super) fn examine(
        &mut self,
        enroller: &mut Enroller,
        learnt: &Learnt,
        shared: &mut Shared,
        anew: bool,
    ) -> Result<(Option<PathChanged>, bool), Error> {
        // Whoever may not look cannot tell.
        let Ok(resolved) = Resolved::of(&self.absolute) else {
            return Ok((None, false));
        };
        if !anew && way_of(&resolved) == self.way {
            return Ok((None, false));
        }
        let files: Vec<BorrowedFd<'_>> = resolved
            .nodes
            .iter()
            .map(|node| node.file.as_fd())
            .collect();
        let answers = enroller.ask(&files)?;
        let before = self.found.take().map(|found| found.identity);
        let looked_at = resolved.end.ok().map(|index| {
            check(&self.given, &answers[index], learnt)?;
            self.look_at(&resolved)
        });
        self.enrolment = Enrolment::default();
        for (index, step) in resolved.steps.iter().enumerate() {
            let name =
                WatchedName::new(answers[step.directory].inode, step.name.as_encoded_bytes());
            let expected = Expected {
                inode: step.found.map_or(0, |index| answers[index].inode),
                flags: resolved.flags(index),
            };
            self.enrolment.add_name(name, expected);
        }
        let problem = match looked_at.transpose() {
            Ok(found) => {
                if let (Some(found), Ok(index)) = (&found, resolved.end) {
                    self.enrolment.add_root(answers[index].inode, found.kind);
                }
                self.found = found;
                None
            }
            Err(error) => Some(error),
        };
        self.keep(resolved, shared);
        if let Some(error) = problem {
            if !std::mem::replace(&mut self.complained, true) && !anew {
                tracing::warn!("{error}");
            }
            if anew {
                return Err(error);
            }
        } else {
            self.complained = false;
        }
        let now = self.found.as_ref().map(|found| found.identity);
        let change = match (before, now) {
            (Some(_), None) => Some(PathChanged::Gone),
            (None, Some(_)) => Some(PathChanged::Back),
            (Some(before), Some(now)) if before != now => Some(PathChanged::Replaced),
            _ => None,
        };
        Ok((change, true))
    }

    fn look_at(&self, resolved: &Resolved) -> Result<Found, Error> {
        let node = resolved.node().ok_or_else(|| Error::Path {
            path: self.given.clone(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        let kind = kind_of(node.kind).ok_or_else(|| Error::NotTraceable {
            path: self.given.clone(),
            kind: describe(node.kind),
        })?;
        Ok(Found {
            identity: node.identity,
            kind,
            canonical: resolved.canonical.clone(),
        })
    }

    /// Keeps open what has to be.
    fn keep(&mut self, resolved: Resolved, shared: &mut Shared) {
        self.way = way_of(&resolved);
        self.of_links = resolved
            .directories_of_links()
            // With no descriptor left, such a link is looked at by its name only.
            .filter_map(|node| shared.hold(node).ok())
            .collect();
        let end = resolved.end.unwrap_or_else(|_| {
            let last = resolved.steps.last();
            last.map_or(0, |step| step.found.unwrap_or(step.directory))
        });
        self.kept = resolved.nodes.into_iter().nth(end).map(|node| node.file);
    }
}

fn way_of(resolved: &Resolved) -> Vec<Name> {
    let identity = |index: usize| resolved.nodes[index].identity;
    resolved
        .steps
        .iter()
        .map(|step| {
            let found = step.found.map(identity);
            (identity(step.directory), found, step.target.clone())
        })
        .collect()
}

/// What a file or directory is in the scope map.
pub(super) fn kind_of(kind: FileType) -> Option<ScopeRoot> {
    match kind {
        FileType::RegularFile => Some(ScopeRoot::File),
        FileType::Directory => Some(ScopeRoot::Directory),
        _ => None,
    }
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "special file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_the_end_of_one_path_and_on_the_way_of_another() {
        let name = WatchedName::new(1, b"db");
        let (last, links) = (Expected::LAST, Expected::LINKS);
        let expected = |inode, flags| Expected { inode, flags };
        let mut above = Enrolment::default();
        above.add_name(name, expected(2, last));
        above.add_root(2, ScopeRoot::Directory);
        let mut below = Enrolment::default();
        below.add_name(name, expected(2, links));
        below.add_name(WatchedName::new(2, b"heap"), expected(3, last));
        below.add_root(3, ScopeRoot::File);
        for order in [[&above, &below], [&below, &above]] {
            let mut all = Enrolment::default();
            for one in order {
                all.add(one);
            }
            assert_eq!(all.names[&name], expected(2, last | links));
            assert_eq!(all.roots[&1], NAMES_BELOW);
            assert_eq!(all.roots[&2], ScopeRoot::Directory as u32 | NAMES_BELOW);
            assert_eq!(all.roots[&3], ScopeRoot::File as u32);
        }
    }

    #[test]
    fn what_has_the_name_is_looked_at_cheaply() {
        let directory = crate::freeze::tests::Directory::new();
        let file = directory.file("file");
        let watched = Watched::open(&file, false).unwrap();
        assert!(!watched.seems_changed() && !watched.is_gone() && watched.directory().is_none());
        std::fs::remove_file(&file).unwrap();
        assert!(watched.seems_changed());
        std::fs::write(&file, "another").unwrap();
        assert!(watched.seems_changed());

        let missing = directory.path.join("missing");
        assert!(Watched::open(&missing, false).is_err());
        let waiting = Watched::open(&missing, true).unwrap();
        assert!(waiting.is_gone() && !waiting.seems_changed());
        std::fs::create_dir(&missing).unwrap();
        assert!(waiting.seems_changed());
    }
}
