//! The places that are left out of a trace (`--exclude`), as the kernel side knows them.
//!
//! A place is a directory with everything below it, wherever it is mounted besides. What is mounted below it lies
//! there too, but perhaps elsewhere as well: a filesystem is left out with the place only if it is mounted nowhere
//! else.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use premod_common::inode::{Enrolled, InodeAddress, ScopeRoot};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, stat, statx};

use crate::{
    error::Error,
    kernel::enrol::Enroller,
    mounts::{self, Mounted},
    scope::OVERLAY_MAGIC,
};

/// How many places are looked at again in one go.
const LOOKED_AT: usize = 16;

/// The places.
#[derive(Default)]
pub(crate) struct Excluded {
    places: Vec<Place>,
    /// Which place is looked at next.
    next: usize,
}

/// A directory by its name.
struct Place {
    path: PathBuf,
    /// What has that name now. It stays open, so that its inode stays in memory and keeps its address.
    directory: Option<Directory>,
}

struct Directory {
    file: OwnedFd,
    /// What `stat` says of it.
    id: (u64, u64),
}

impl Directory {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        let status = rustix::fs::fstat(&file)?;
        let id = (status.st_dev, status.st_ino);
        Ok(Self { file, id })
    }
}

impl Excluded {
    /// Opens the places. `paths` are traced: none of them may be one.
    pub(crate) fn open(places: &[PathBuf], paths: &[PathBuf]) -> Result<Self, Error> {
        let paths: Vec<_> = paths
            .iter()
            .filter_map(|path| path.canonicalize().ok())
            .collect();
        let opened = places.iter().map(|path| {
            let refused = |source| Error::BadPlace {
                path: path.clone(),
                source,
            };
            let canonical = path.canonicalize().map_err(refused)?;
            if paths.contains(&canonical) {
                return Err(Error::BadValue(format!(
                    "--exclude {place} leaves out all of the PATH {place}; give one that lies below it",
                    place = path.display()
                )));
            }
            Ok(Place {
                directory: Some(Directory::open(&canonical).map_err(refused)?),
                path: canonical,
            })
        });
        Ok(Self {
            places: opened.collect::<Result<_, _>>()?,
            ..Self::default()
        })
    }

    /// Whether nothing is left out.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Refuses places that no inode of a file's lies below.
    pub(crate) fn check(&self, enroller: &mut Enroller) -> Result<(), Error> {
        for (place, answer) in self.ask(enroller)? {
            if answer.magic == OVERLAY_MAGIC {
                return Err(Error::BadValue(format!(
                    "--exclude {}: it lies on overlayfs, whose files live on the upper filesystem; leave out the upper directory instead",
                    place.path.display()
                )));
            }
        }
        Ok(())
    }

    /// What the kernel side has to know: the places, and the filesystems that are mounted below them only.
    pub(crate) fn entries(
        &self,
        enroller: &mut Enroller,
    ) -> Result<Vec<(InodeAddress, ScopeRoot)>, Error> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let mut entries: Vec<_> = self
            .ask(enroller)?
            .iter()
            .map(|(_, answer)| (answer.inode, ScopeRoot::Excluded))
            .collect();
        let paths: Vec<_> = self.places.iter().map(|place| &*place.path).collect();
        let roots: Vec<_> = only_below(&mounts::table(), &paths)
            .iter()
            .filter_map(root_of)
            .collect();
        let files: Vec<_> = roots.iter().map(AsFd::as_fd).collect();
        for answer in enroller.ask(&files)? {
            if entries.iter().all(|(inode, _)| *inode != answer.inode) {
                entries.push((answer.inode, ScopeRoot::ExcludedFilesystem));
            }
        }
        Ok(entries)
    }

    /// Whether another directory has the name of one of the places now, or none. Those are opened again; the map knows
    /// nothing of that yet.
    pub(crate) fn have_moved(&mut self) -> bool {
        let mut moved = false;
        for _ in 0..LOOKED_AT.min(self.places.len()) {
            self.next = (self.next + 1) % self.places.len();
            moved |= self.places[self.next].has_moved();
        }
        moved
    }

    fn ask(&self, enroller: &mut Enroller) -> Result<Vec<(&Place, Enrolled)>, Error> {
        let there = self.places.iter().filter_map(|place| {
            let file = place.directory.as_ref()?.file.as_fd();
            Some((place, file))
        });
        let (places, files): (Vec<_>, Vec<_>) = there.unzip();
        let answers = enroller.ask(&files)?;
        Ok(places.into_iter().zip(answers).collect())
    }
}

impl Place {
    fn has_moved(&mut self) -> bool {
        let now = stat(&self.path)
            .ok()
            .map(|status| (status.st_dev, status.st_ino));
        let before = self.directory.as_ref().map(|directory| directory.id);
        if now == before {
            return false;
        }
        self.directory = Directory::open(&self.path).ok();
        let after = self.directory.as_ref().map(|directory| directory.id);
        after != before
    }
}

/// The mounts of whole filesystems that are mounted at or below these places and nowhere else.
fn only_below(table: &[Mounted], places: &[&Path]) -> Vec<Mounted> {
    let is_below = |mount: &&Mounted| places.iter().any(|place| mount.point.starts_with(place));
    let elsewhere: HashSet<_> = table
        .iter()
        .filter(|mount| !is_below(mount))
        .map(|mount| &mount.device)
        .collect();
    table
        .iter()
        .filter(is_below)
        .filter(|mount| mount.root == Path::new("/") && !elsewhere.contains(&mount.device))
        .cloned()
        .collect()
}

/// The mount's root, opened; nothing if it is gone again, or hidden by another.
fn root_of(mount: &Mounted) -> Option<OwnedFd> {
    // Without O_DIRECTORY, nothing is mounted by being looked at.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(&mount.point, flags, Mode::empty()).ok()?;
    let status = statx(&root, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    (status.stx_mnt_id == mount.id).then_some(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(mounts: &[(&str, &str, &str)]) -> Vec<Mounted> {
        let mounted = |(id, (device, root, point)): (usize, &(&str, &str, &str))| Mounted {
            id: id as u64,
            device: device.as_bytes().to_vec(),
            root: root.into(),
            point: point.into(),
        };
        mounts.iter().enumerate().map(mounted).collect()
    }

    #[test]
    fn a_filesystem_that_is_mounted_elsewhere_too_stays() {
        let table = table(&[
            ("8:1", "/", "/"),
            ("8:2", "/", "/srv/cache/a"),
            ("8:3", "/", "/srv/cache/b"),
            ("8:3", "/data", "/srv/data"),
            ("8:4", "/data", "/srv/cache/c"),
            ("8:1", "/", "/srv/cache/d"),
            ("8:5", "/", "/srv/cache"),
            ("8:6", "/", "/srv/cached"),
            ("8:7", "/", "/tmp/one"),
            ("8:7", "/", "/srv/cache/two"),
        ]);
        let points = |places: &[&str]| {
            let places: Vec<_> = places.iter().map(Path::new).collect();
            let found = only_below(&table, &places);
            found
                .into_iter()
                .map(|mount| mount.point.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(points(&["/srv/cache"]), ["/srv/cache/a", "/srv/cache"]);
        let both = ["/tmp/one", "/srv/cache/two"];
        assert_eq!(points(&both), both);
        assert_eq!(points(&[]), [""; 0]);
    }

    #[test]
    fn a_place_is_known_by_its_name() {
        let parent = crate::freeze::tests::Directory::new();
        let path = parent.path.join("cache");
        std::fs::create_dir(&path).unwrap();
        let mut excluded = Excluded::open(std::slice::from_ref(&path), &[]).unwrap();
        assert!(!excluded.have_moved());
        std::fs::rename(&path, parent.path.join("old")).unwrap();
        assert!(excluded.have_moved() && !excluded.have_moved());
        std::fs::create_dir(&path).unwrap();
        assert!(excluded.have_moved() && !excluded.have_moved());
        std::fs::remove_dir(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(excluded.have_moved() && !excluded.have_moved());
    }

    #[test]
    fn a_place_that_leaves_out_a_whole_path_is_refused() {
        let parent = crate::freeze::tests::Directory::new();
        let again = parent.path.join(".");
        let refused = |place: &Path| {
            Excluded::open(&[place.to_owned()], std::slice::from_ref(&parent.path)).err()
        };
        assert!(refused(&again).is_some_and(|error| error.to_string().contains("--exclude")));
        assert!(refused(&parent.path.join("not-there")).is_some());
        std::fs::create_dir(parent.path.join("below")).unwrap();
        assert!(refused(&parent.path.join("below")).is_none());
    }
}
