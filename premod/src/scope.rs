//! The PATHs that are traced, as the kernel side knows them, and what keeps that true.
//!
//! The kernel side finds what has a PATH's name by the names on the way to it ([`premod_common::watched`]). User space
//! looks every now and then whether they still lead to the same inodes, tells the kernel side if not, and says so in the
//! stream.

mod mounted;
mod resolve;
mod watched;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, MapData, MapError};
use premod_common::{
    counters::Counters,
    inode::{Enrolled, InodeAddress, ScopeRoot},
    watched::{Watched as Expected, WatchedName, kind_of as kind_of_root},
};

pub use self::mounted::Unseen;
pub(crate) use self::watched::Watched;
use self::{
    mounted::{Below, named},
    watched::{Enrolment, Shared},
};
use crate::{
    error::Error,
    events::PathChanged,
    excluded::Excluded,
    kernel::enrol::{Enroller, Learnt},
    mounts::Mounts,
    output::printable,
};

/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h, which is part of the kernel's stable interface.
pub(crate) const OVERLAY_MAGIC: u64 = 0x794c_7630;

/// How many PATHs are looked up at a time.
const AT_A_TIME: usize = 16;

/// In how many looks every PATH is looked at cheaply, if that is not more than [`AT_A_TIME`] in one.
const LOOKS_PER_ROUND: usize = 10;

/// Every how many cheap looks there is a thorough one.
const THOROUGH: usize = 16;

/// After how many looks without a change the enrolment program is taken off.
const LOOKS_UNTIL_REST: u32 = 5;

/// Added to the epoch by user space: more than the kernel side ever adds, so that it does not matter if it adds in between.
const EPOCH_STEP: u64 = 1 << 32;

/// The maps that the kernel side decides by.
pub(crate) struct Maps {
    pub(crate) roots: HashMap<MapData, InodeAddress, u32>,
    pub(crate) names: HashMap<MapData, WatchedName, Expected>,
    pub(crate) epoch: Array<MapData, u64>,
    /// How many switches of symbolic links user space has followed ([`Counters::switches`]).
    pub(crate) followed: Array<MapData, u64>,
}

/// The scope map and what keeps it true.
pub(crate) struct Scope {
    paths: Vec<Watched>,
    shared: Shared,
    maps: Maps,
    mounts: Mounts,
    learnt: Learnt,
    /// What is mounted below the PATHs.
    mounted: Below,
    /// Places among them of which was found at the start that nothing is seen there.
    unseen: Vec<Unseen>,
    /// What is left out, and what stands for it.
    excluded: Excluded,
    left_out: Vec<(InodeAddress, ScopeRoot)>,
    /// What stands in the maps.
    told: (HashSet<InodeAddress>, HashSet<WatchedName>),
    /// What the kernel side had seen at the last look: renames of directories, and switches of symbolic links.
    moves: u64,
    switches: u64,
    looks: Looks,
}

/// Which PATHs have to be looked at.
#[derive(Default)]
struct Looks {
    /// The next one for a cheap look, for a thorough one, and among those that are gone.
    cheap: usize,
    thorough: usize,
    gone: usize,
    /// How many are still to be looked at thoroughly, because directories were renamed or mounts have changed.
    due: usize,
    /// Looks without a change.
    quiet: u32,
}

impl Scope {
    /// Puts the PATHs, whatever is mounted below them, and what is left out, into the kernel's maps.
    pub(crate) fn enrol(
        paths: Vec<Watched>,
        excluded: Excluded,
        maps: Maps,
        enroller: &mut Enroller,
        learnt: Learnt,
    ) -> Result<Self, Error> {
        // Before the mounts are read: what is mounted in between counts as a change.
        let mounts = Mounts::watch().map_err(|error| {
            Error::kernel("cannot watch the mounts (/proc/self/mountinfo)", &error)
        })?;
        let mut scope = Self {
            paths,
            shared: Shared::default(),
            maps,
            mounts,
            learnt,
            mounted: Below::default(),
            unseen: Vec::new(),
            excluded,
            left_out: Vec::new(),
            told: (HashSet::new(), HashSet::new()),
            moves: 0,
            switches: 0,
            looks: Looks::default(),
        };
        for path in &mut scope.paths {
            path.examine(enroller, &learnt, &mut scope.shared, true)?;
        }
        scope.excluded.check(enroller)?;
        scope.unseen = scope.enrol_mounts(enroller)?;
        scope.tell()?;
        Ok(scope)
    }

    /// The PATHs that lead nowhere.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &Path> {
        self.paths
            .iter()
            .filter(|path| path.is_gone())
            .map(Watched::given)
    }

    /// Places below the PATHs of which was found at the start that nothing is seen there.
    pub(crate) fn unseen(&self) -> &[Unseen] {
        &self.unseen
    }

    /// Looks whether the PATHs still lead to what they led to, as far as it is time for that; what has changed. What is
    /// mounted below a PATH belongs to it, and what was decided about files has to be decided again. The
    /// kernel side has counted so far what moved.
    pub(crate) fn look(
        &mut self,
        enroller: &mut Enroller,
        counted: &Counters,
    ) -> Result<Vec<(PathBuf, PathChanged)>, Error> {
        let remounted = self.mounts.have_changed();
        let differs = |before: &mut u64, now: u64| std::mem::replace(before, now) != now;
        let relinked = differs(&mut self.switches, counted.switches);
        let stirred = differs(&mut self.moves, counted.moves) || relinked || remounted;
        // In any case: what it finds moved it opens again, for what follows.
        let moved = self.excluded.have_moved();
        let mut changed = remounted || relinked || moved;
        let mut changes = Vec::new();
        for index in self.suspects(stirred, relinked) {
            let path = &mut self.paths[index];
            let (change, any) = path.examine(enroller, &self.learnt, &mut self.shared, false)?;
            changes.extend(change.map(|change| (path.given().to_owned(), change)));
            changed |= any;
        }
        if changed {
            let unseen = self.enrol_mounts(enroller)?;
            self.tell()?;
            for Unseen { point, filesystem } in unseen {
                let point = printable(point.as_os_str().as_encoded_bytes());
                tracing::warn!("what changes at {point} is not seen: it is on {filesystem}");
            }
            self.looks.quiet = 0;
        } else {
            self.looks.quiet = self.looks.quiet.saturating_add(1);
            if self.looks.quiet == LOOKS_UNTIL_REST {
                enroller.rest()?;
            }
        }
        Ok(changes)
    }

    /// Which PATHs are to be looked up now: those that seem to be changed, a few of those that are gone, and if anything
    /// on the way may have changed, all of them, a few at a time.
    fn suspects(&mut self, stirred: bool, relinked: bool) -> Vec<usize> {
        let (paths, looks) = (&self.paths, &mut self.looks);
        let all = paths.len();
        if all == 0 {
            return Vec::new();
        }
        let mut suspects = Vec::new();
        let turn = |next: &mut usize| {
            *next = (*next + 1) % all;
            *next
        };
        if stirred {
            looks.due = all;
            suspects.extend((0..all).filter(|&index| {
                relinked && paths[index].has_links() || paths[index].seems_changed()
            }));
        } else {
            let looked_at = all.div_ceil(LOOKS_PER_ROUND).min(AT_A_TIME);
            suspects.extend((0..looked_at).map(|_| turn(&mut looks.cheap)));
            suspects.retain(|&index| paths[index].seems_changed());
            if looks.quiet as usize % THOROUGH == THOROUGH - 1 {
                looks.due = looks.due.max(1);
            }
        }
        let due = looks.due.min(AT_A_TIME);
        looks.due -= due;
        suspects.extend((0..due).map(|_| turn(&mut looks.thorough)));
        let gone: Vec<_> = (0..all).filter(|&index| paths[index].is_gone()).collect();
        for _ in 0..gone.len().min(AT_A_TIME) {
            looks.gone = (looks.gone + 1) % gone.len();
            suspects.push(gone[looks.gone]);
        }
        suspects.sort_unstable();
        suspects.dedup();
        suspects
    }

    fn enrol_mounts(&mut self, enroller: &mut Enroller) -> Result<Vec<Unseen>, Error> {
        self.left_out = self.excluded.entries(enroller)?;
        let directories: Vec<_> = self.paths.iter().filter_map(Watched::directory).collect();
        self.mounted.look(&directories, enroller, &self.learnt)
    }

    /// Tells the kernel side what it has to know, and makes all verdicts void.
    ///
    /// What it knows changes entry by entry, and searches go on meanwhile. A directory that is expected under its name must
    /// never lack the names below it that are watched, or what is there would be outside for a moment. So what is new comes
    /// first, and searches that began before that are void, before any expectation changes; what is old goes last.
    fn tell(&mut self) -> Result<(), Error> {
        let mut all = Enrolment::default();
        for path in &self.paths {
            all.add(&path.enrolment);
        }
        let paths = all.roots.clone();
        let is_path = |inode| {
            paths
                .get(inode)
                .is_some_and(|&root| kind_of_root(root) != 0)
        };
        for &(inode, kind) in &self.mounted.entries {
            all.add_root(inode, kind);
        }
        // A PATH in a place that is left out is traced, what is merely mounted there is not.
        for &(inode, kind) in self.left_out.iter().filter(|(inode, _)| !is_path(inode)) {
            all.add_root(inode, kind);
        }
        let (inodes, names) = &mut self.told;
        let maps = &mut self.maps;
        // All of them: the kernel side removes those whose inodes have left memory.
        for (inode, root) in &all.roots {
            maps.roots.insert(inode, root, 0).map_err(full)?;
        }
        let (known, new): (Vec<_>, Vec<_>) = all
            .names
            .iter()
            .partition(|&(name, _)| names.contains(name));
        for (name, expected) in new {
            maps.names.insert(name, expected, 0).map_err(full)?;
        }
        maps.begin_epoch()?;
        for (name, expected) in known {
            maps.names.insert(name, expected, 0).map_err(full)?;
        }
        // What is gone already needs not be removed.
        for inode in inodes.iter().filter(|inode| !all.roots.contains_key(inode)) {
            let _ = maps.roots.remove(inode);
        }
        for name in names.iter().filter(|name| !all.names.contains_key(name)) {
            let _ = maps.names.remove(name);
        }
        *inodes = all.roots.into_keys().collect();
        *names = all.names.into_keys().collect();
        set(&mut maps.followed, self.switches)?;
        maps.begin_epoch()
    }
}

impl Maps {
    /// Makes all verdicts void, and all searches that have begun.
    fn begin_epoch(&mut self) -> Result<(), Error> {
        let next = read(&self.epoch)?.wrapping_add(EPOCH_STEP);
        set(&mut self.epoch, next)
    }
}

fn full(error: MapError) -> Error {
    match &error {
        MapError::SyscallError(failed) if failed.io_error.raw_os_error() == Some(libc::E2BIG) => {
            Error::TooManyPaths
        }
        _ => Error::kernel("cannot put a PATH into the scope maps", &error),
    }
}

fn set(number: &mut Array<MapData, u64>, value: u64) -> Result<(), Error> {
    let failed = |error| Error::kernel("cannot update the scope", &error);
    number.set(0, value, 0).map_err(failed)
}

fn read(number: &Array<MapData, u64>) -> Result<u64, Error> {
    let failed = |error| Error::kernel("cannot read the scope's state", &error);
    number.get(&0, 0).map_err(failed)
}

/// Refuses places where premod could not keep its word.
fn check(path: &Path, answer: &Enrolled, learnt: &Learnt) -> Result<(), Error> {
    let path = || path.to_owned();
    if answer.magic == OVERLAY_MAGIC {
        return Err(Error::Stacked { path: path() });
    }
    if answer.bdi == learnt.untracked_bdi {
        let filesystem = named(answer.magic);
        return Err(Error::Unseen {
            path: path(),
            filesystem,
        });
    }
    Ok(())
}
