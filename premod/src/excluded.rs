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
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};

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
    /// The mount that the name led to at the start.
    mount: u64,
    /// What has that name now. It stays open, so that its inode stays in memory and keeps its address.
    directory: Option<Directory>,
}

/// Device and number.
type Identity = (u32, u32, u64);

struct Directory {
    file: OwnedFd,
    id: Identity,
    /// The mount that it was opened by.
    mount: u64,
}

impl Directory {
    /// Opens what has this name itself: a symbolic link that somebody has put there would lead anywhere.
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        let id = identity(&file, Path::new(""))?;
        let mount = mount_of(&file)?;
        Ok(Self { file, id, mount })
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
            let directory = Directory::open(&canonical).map_err(refused)?;
            Ok(Place {
                mount: directory.mount,
                directory: Some(directory),
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
        let now = identity(CWD, &self.path).ok();
        let before = self.directory.as_ref().map(|directory| directory.id);
        if now == before {
            return false;
        }
        let there = Directory::open(&self.path).ok();
        if let Some(directory) = &there
            && directory.mount != self.mount
            && !is_by_itself(&mounts::table(), &self.path, directory.mount)
        {
            // What is hidden by the mount lies there still.
            return false;
        }
        self.directory = there;
        let after = self.directory.as_ref().map(|directory| directory.id);
        after != before
    }
}

/// Whether what another mount shows under the place's name lies there and nowhere else, as far as mounts go: what is in
/// the place of a directory that was mounted over has to be seen by its other names. A mount on the place itself is one
/// of those below it ([`only_below`]).
fn is_by_itself(table: &[Mounted], place: &Path, mount: u64) -> bool {
    table.iter().any(|mounted| {
        let is_the_same = |other: &&Mounted| other.device == mounted.device;
        mounted.id == mount
            && mounted.root == Path::new("/")
            && mounted.point != place
            && table.iter().filter(is_the_same).count() == 1
    })
}

/// What has this name. Whoever serves its filesystem is not asked, and so not waited for.
fn identity(directory: impl AsFd, name: &Path) -> io::Result<Identity> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = statx(directory, name, flags, StatxFlags::INO)?;
    Ok((status.stx_dev_major, status.stx_dev_minor, status.stx_ino))
}

fn mount_of(file: impl AsFd) -> io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = statx(file, "", flags, StatxFlags::MNT_ID)?;
    Ok(status.stx_mnt_id)
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
    (mount_of(&root).ok()? == mount.id).then_some(root)
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
            upper: None,
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
    fn a_place_leads_nowhere_else() {
        let parent = crate::freeze::tests::Directory::new();
        let [above, other] = ["above", "other"].map(|name| parent.path.join(name));
        let path = above.join("cache");
        for directory in [&path, &other.join("cache")] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let mut excluded = Excluded::open(std::slice::from_ref(&path), &[]).unwrap();
        let has = |excluded: &Excluded| excluded.places[0].directory.is_some();
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(excluded.have_moved() && !has(&excluded));
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_dir(&above).unwrap();
        std::os::unix::fs::symlink(&other, &above).unwrap();
        assert!(!excluded.have_moved() && !has(&excluded));
        std::fs::remove_file(&above).unwrap();
        std::fs::create_dir_all(&path).unwrap();
        assert!(excluded.have_moved() && has(&excluded));
    }

    #[test]
    fn what_is_mounted_over_a_place_lies_there_if_it_does_nowhere_else() {
        let table = table(&[
            ("8:1", "/", "/"),
            ("8:2", "/", "/srv"),
            ("8:3", "/", "/srv/a"),
            ("8:1", "/data", "/srv/b"),
            ("8:4", "/", "/srv/c"),
            ("8:4", "/", "/home"),
        ]);
        let is_by_itself = |mount, place| is_by_itself(&table, Path::new(place), mount);
        assert!(is_by_itself(1, "/srv/cache") && is_by_itself(2, "/srv/a/cache"));
        assert!(!is_by_itself(2, "/srv/a"), "one of those below it");
        assert!(!is_by_itself(3, "/srv/b/cache") && !is_by_itself(4, "/srv/c/cache"));
        assert!(!is_by_itself(0, "/cache") && !is_by_itself(9, "/srv/cache"));
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
