//! Cgroups that are asked for by their directory. Whoever starts a service again makes its cgroup anew: another one, with
//! the same name.
//!
//! The kernel side knows cgroups by their ids, and decides while the task is there. User space looks at the names, and
//! tells it of new ids. What happens in a new cgroup before that is decided when the event is read; if the cgroup is gone
//! by then, it counts as one that is asked for.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, MapData};
use rustix::fs::statfs;

use crate::{
    error::Error,
    events::{self, FirstDirty, MonotonicNs},
};

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
pub(crate) const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// So many cgroups of others are remembered.
const REMEMBERED: usize = 1 << 16;

/// The cgroups that are asked for.
pub(crate) struct Cgroups {
    /// What the kernel side knows.
    ids: HashMap<MapData, u64, u32>,
    /// Those that are asked for by their ids.
    given: Vec<u64>,
    directories: Vec<Directory>,
    /// Ids of cgroups that are none of them, nor below one. A cgroup stays where it is.
    others: HashSet<u64>,
}

/// A name and the cgroup that has it.
struct Directory {
    path: PathBuf,
    /// Of the cgroup that had the name first. Ids grow: what is older is not below any that came later.
    first: u64,
    /// Of the last one that was seen.
    id: u64,
    looked: MonotonicNs,
    /// From when until when there may have been one that the kernel side did not know.
    unknown: Option<(MonotonicNs, MonotonicNs)>,
}

impl Cgroups {
    /// Tells the kernel side of these, by their ids or by their directories.
    pub(crate) fn ask(
        ids: HashMap<MapData, u64, u32>,
        given: &[u64],
        paths: &[PathBuf],
    ) -> Result<Self, Error> {
        let mut cgroups = Self {
            ids,
            given: given.to_vec(),
            directories: Vec::new(),
            others: HashSet::new(),
        };
        for &id in given {
            cgroups.tell(id)?;
        }
        for path in paths {
            let failed = |source| Error::Path {
                path: path.clone(),
                source,
            };
            let path = std::path::absolute(path).map_err(failed)?;
            let looked = events::now();
            let id = fs::metadata(&path).map_err(failed)?.ino();
            cgroups.tell(id)?;
            cgroups.directories.push(Directory {
                path,
                first: id,
                id,
                looked,
                unknown: None,
            });
        }
        Ok(cgroups)
    }

    fn tell(&mut self, id: u64) -> Result<(), Error> {
        let told = self.ids.insert(id, 0, 0);
        told.map_err(|error| Error::kernel("cannot ask for so many cgroups", &error))
    }

    /// Makes room in the kernel's map: nobody is in a cgroup that is gone.
    fn forget(&mut self, gone: u64) {
        let is_it = |directory: &Directory| directory.id == gone;
        if !self.given.contains(&gone) && !self.directories.iter().any(is_it) {
            let _ = self.ids.remove(&gone);
        }
    }

    /// Looks whether other cgroups have the names now.
    pub(crate) fn look(&mut self) {
        for index in 0..self.directories.len() {
            let directory = &mut self.directories[index];
            let began = std::mem::replace(&mut directory.looked, events::now());
            let id = id_of(&directory.path);
            if id == Some(directory.id) {
                continue;
            }
            if let Some(id) = id {
                let gone = std::mem::replace(&mut directory.id, id);
                if let Err(error) = self.tell(id) {
                    tracing::warn!("{error}");
                }
                self.forget(gone);
            }
            let directory = &mut self.directories[index];
            let from = directory.unknown.map_or(began, |(from, _)| from);
            directory.unknown = Some((from, events::now()));
        }
    }

    /// Says of an event that the kernel side did not find to be in one of them whether it is all the same.
    pub(crate) fn decide(&mut self, event: &mut FirstDirty) {
        let id = event.cgroup;
        if event.in_cgroup || self.directories.is_empty() || self.others.contains(&id) {
            return;
        }
        self.look();
        let mut directories = self.directories.iter();
        if directories.any(|directory| directory.has(id, event.mono)) {
            event.in_cgroup = true;
            return;
        }
        if self.others.len() >= REMEMBERED {
            self.others.clear();
        }
        self.others.insert(id);
    }
}

impl Directory {
    /// Whether this cgroup, which the kernel side does not take for the directory's, nor for one below, was so then.
    fn has(&self, id: u64, then: MonotonicNs) -> bool {
        let is_unknown =
            |(from, until): (MonotonicNs, MonotonicNs)| (from.0..=until.0).contains(&then.0);
        if id <= self.first || !self.unknown.is_some_and(is_unknown) {
            return false;
        }
        id == self.id
            || path_of(top(&self.path), id).is_none_or(|path| path.starts_with(&self.path))
    }
}

/// The cgroup that has this name, if it is one.
fn id_of(path: &Path) -> Option<u64> {
    let id = fs::metadata(path).ok()?.ino();
    is_cgroup(path).then_some(id)
}

fn is_cgroup(path: &Path) -> bool {
    statfs(path).is_ok_and(|status| status.f_type as u64 == CGROUP2_MAGIC)
}

/// The root of the filesystem of cgroups in which this path is.
fn top(path: &Path) -> &Path {
    path.ancestors()
        .skip_while(|above| !is_cgroup(above))
        .take_while(|above| is_cgroup(above))
        .last()
        .unwrap_or(path)
}

/// The directory with this number, here or below; none if it is gone.
fn path_of(directory: &Path, number: u64) -> Option<PathBuf> {
    if fs::metadata(directory).is_ok_and(|here| here.ino() == number) {
        return Some(directory.to_owned());
    }
    let entries = fs::read_dir(directory).ok()?.flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .find_map(|entry| match entry.ino() == number {
            true => Some(entry.path()),
            false => path_of(&entry.path(), number),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_found_by_their_number() {
        let above = crate::freeze::tests::Directory::new();
        let deep = above.path.join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        let number = fs::metadata(&deep).unwrap().ino();
        assert_eq!(path_of(&above.path, number), Some(deep.clone()));
        let own = fs::metadata(&above.path).unwrap().ino();
        assert_eq!(path_of(&above.path, own), Some(above.path.clone()));
        fs::remove_dir(&deep).unwrap();
        assert_eq!(path_of(&above.path, number), None);
        assert!(!is_cgroup(&above.path) && id_of(&above.path).is_none());
    }

    #[test]
    fn what_happens_before_the_kernel_side_knows_is_decided_by_name() {
        let above = crate::freeze::tests::Directory::new();
        let [asked, other] = ["asked", "other"].map(|name| above.path.join(name));
        for directory in [&asked, &other] {
            fs::create_dir(directory).unwrap();
        }
        let number = |path: &Path| fs::metadata(path).unwrap().ino();
        let mut directory = Directory {
            path: asked.clone(),
            first: 0,
            id: number(&asked),
            looked: MonotonicNs(0),
            unknown: None,
        };
        let id = directory.id;
        assert!(!directory.has(id, MonotonicNs(5)), "it knows");
        directory.unknown = Some((MonotonicNs(3), MonotonicNs(7)));
        assert!(directory.has(id, MonotonicNs(5)));
        assert!(!directory.has(id, MonotonicNs(2)) && !directory.has(id, MonotonicNs(8)));
        assert!(directory.has(u64::MAX, MonotonicNs(5)), "it is gone");
        directory.first = id;
        assert!(!directory.has(id, MonotonicNs(5)), "it is older");
    }
}
