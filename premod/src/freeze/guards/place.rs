//! The place of one freeze among those that share the programs: where these find its maps.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError},
};
use premod_common::{
    guard::{FREEZES_MAX, Own, Phase, Switch, Tally},
    inode::InodeAddress,
};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};

use super::{obeyed, set_switch};
use crate::{error::Error, freeze::hold::processes::started, kernel::bpf};

/// The maps that each freeze has for itself, and the arrays in which the programs find them. The first is there last and
/// gone last: without it a place is nobody's.
const EACH: [(&str, &str); 16] = [
    ("OWN", "EACH_OWN"),
    ("SWITCH", EACH_SWITCH),
    ("TALLY", EACH_TALLY),
    ("PROTECTED", "EACH_PROTECTED"),
    ("LOOK", "EACH_LOOK"),
    ("HELD", "EACH_HELD"),
    ("SEIZED", "EACH_SEIZED"),
    ("SUPERBLOCKS", "EACH_SUPERBLOCKS"),
    ("NAMES", "EACH_NAMES"),
    ("COMMANDS", "EACH_COMMANDS"),
    ("SHARED", "EACH_SHARED"),
    ("IN_FLIGHT", "EACH_IN_FLIGHT"),
    ("REFUSED", "EACH_REFUSED"),
    ("STOPPED_THEMSELVES", "EACH_STOPPED_THEMSELVES"),
    ("WAITING", "EACH_WAITING"),
    ("HAPPENINGS", "EACH_HAPPENINGS"),
];
const EACH_SWITCH: &str = "EACH_SWITCH";
const EACH_TALLY: &str = "EACH_TALLY";
/// The other maps that are shared.
const GUARDED: &str = "GUARDED";
const PLACES: &str = "PLACES";

/// Longest wait for hooks that are dealing with a freeze whose premod was killed. They keep a writer waiting for a quarter of a
/// second at most.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A freeze's own maps, in the order of [`EACH`].
pub(super) struct OwnMaps(Vec<MapData>);

impl OwnMaps {
    /// Those of an object, before they are taken out of it.
    ///
    /// # Errors
    /// If one is missing, or there are no more descriptors.
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self, Error> {
        let maps = EACH.iter().map(|(name, _)| again(map_of(ebpf, name)?));
        Ok(Self(maps.collect::<Result<_, _>>()?))
    }
}

/// The maps by which the shared programs find every freeze.
pub(super) struct SharedMaps {
    /// In the order of [`EACH`].
    each: Vec<MapData>,
    guarded: HashMap<MapData, InodeAddress, u32>,
    places: Array<MapData, u32>,
}

impl SharedMaps {
    /// The names of all of them, in an object.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        let each = EACH.iter().map(|&(_, array)| array);
        each.chain([GUARDED, PLACES])
    }

    /// Those that `open` gives by their names.
    ///
    /// # Errors
    /// If it gives something else, or an error.
    pub(super) fn open(
        mut open: impl FnMut(&str) -> Result<MapData, Error>,
    ) -> Result<Self, Error> {
        let each = EACH.iter().map(|(_, array)| open(array));
        Ok(Self {
            each: each.collect::<Result<_, _>>()?,
            guarded: Map::HashMap(open(GUARDED)?).try_into().map_err(failed)?,
            places: Map::Array(open(PLACES)?).try_into().map_err(failed)?,
        })
    }

    /// Takes a place for a freeze; the lowest that is nobody's, or whose premod lives no more. Only one process may do so at
    /// a time.
    ///
    /// # Errors
    /// If there is none, or one cannot be looked at.
    pub(super) fn take(&mut self, own: &OwnMaps) -> Result<u32, Error> {
        let place = self.free_place()?;
        self.clear(place)?;
        let insert = |number: usize, array: BorrowedFd<'_>| {
            let map = own.0.get(number).ok_or(io::ErrorKind::NotFound)?;
            bpf::insert(array, place, map.fd().as_fd())
        };
        // Before the maps, so that the wait for programs is one for those that have not seen it.
        if self.count() <= place {
            self.places.set(0, place + 1, 0).map_err(failed)?;
        }
        if let Err(error) = self.in_each(insert) {
            self.remove(place);
            return Err(Error::kernel("cannot use a BPF map", &error));
        }
        Ok(place)
    }

    /// Gives a place back: no program uses the maps there any more.
    pub(super) fn give_back(&mut self, place: u32, inodes: &[InodeAddress]) {
        for inode in inodes {
            if self.guarded.get(inode, 0).is_ok_and(|its| its == place) {
                let _ = self.guarded.remove(inode);
            }
        }
        self.remove(place);
    }

    /// Lets no more places be looked at than there have to be. Nobody may take one meanwhile.
    pub(super) fn shorten(&mut self) {
        // What cannot be looked at may be somebody's.
        let last = (0..self.count())
            .rev()
            .find(|&place| self.is_taken(place).unwrap_or(true));
        let _ = self.places.set(0, last.map_or(0, |last| last + 1), 0);
    }

    /// Guards an inode for the freeze at this place. Nobody may take a place meanwhile.
    ///
    /// # Errors
    /// If there is no room.
    pub(super) fn guard(&mut self, inode: InodeAddress, place: u32) -> Result<(), Error> {
        self.guarded
            .insert(inode, place, 0)
            .map_err(|error| Error::kernel("cannot guard a file", &error))
    }

    fn free_place(&self) -> Result<u32, Error> {
        for place in 0..FREEZES_MAX {
            if !self.is_alive(place)? {
                return Ok(place);
            }
        }
        Err(Error::Kernel {
            context: "cannot freeze".to_owned(),
            reason: format!("{FREEZES_MAX} freezes are going on at this moment"),
        })
    }

    fn count(&self) -> u32 {
        self.places.get(&0, 0).unwrap_or(FREEZES_MAX)
    }

    fn is_taken(&self, place: u32) -> io::Result<bool> {
        match self.each.first() {
            Some(owns) => bpf::has_map(owns.fd().as_fd(), place),
            None => Ok(false),
        }
    }

    /// Whether a freeze is at this place, and its premod lives.
    fn is_alive(&self, place: u32) -> Result<bool, Error> {
        let Some(own) = self.map_at(place, EACH[0].1)? else {
            return Ok(false);
        };
        let own: Array<_, Own> = Map::Array(own).try_into().map_err(failed)?;
        let own = own.get(&0, 0).map_err(failed)?;
        let lives = || {
            let pid = Pid::from_raw(own.pid.cast_signed());
            pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
        };
        // Where /proc does not tell, it may live.
        Ok(started(own.pid).map_or_else(lives, |began| began == own.began))
    }

    /// Removes what a premod that was killed has left at this place.
    fn clear(&mut self, place: u32) -> Result<(), Error> {
        // Open until they are taken away: before 6.8 the kernel may free a map while programs use it, once nobody has it open.
        let maps = EACH.iter().map(|(_, name)| self.map_at(place, name));
        let maps = maps.collect::<Result<Vec<_>, _>>()?;
        if maps.iter().all(Option::is_none) {
            return Ok(());
        }
        self.wait_until_open(place)?;
        let guarded: Vec<_> = self.guarded.iter().flatten().collect();
        let left = guarded.iter().filter(|(_, its)| *its == place);
        let left: Vec<_> = left.map(|(inode, _)| *inode).collect();
        self.give_back(place, &left);
        Ok(())
    }

    /// Opens the switch of a freeze whose premod was killed, and waits until its hooks obey: who is being kept out is noted, or
    /// let go.
    fn wait_until_open(&self, place: u32) -> Result<(), Error> {
        let (Some(switch), Some(tally)) = (
            self.map_at(place, EACH_SWITCH)?,
            self.map_at(place, EACH_TALLY)?,
        ) else {
            return Ok(());
        };
        let mut switch: Array<_, Switch> = Map::Array(switch).try_into().map_err(failed)?;
        let tally: Array<_, Tally> = Map::Array(tally).try_into().map_err(failed)?;
        set_switch(&mut switch, Phase::Open, 0)?;
        // If one of them does not come to its end, its maps are taken away all the same.
        obeyed(&tally, TIMEOUT).map(drop)
    }

    /// The map of the freeze at this place that is in the array of this name.
    fn map_at(&self, place: u32, name: &str) -> Result<Option<MapData>, Error> {
        let index = EACH.iter().position(|&(_, array)| array == name);
        let Some(array) = index.and_then(|index| self.each.get(index)) else {
            return Ok(None);
        };
        let array = Map::ArrayOfMaps(again(array)?);
        let array: ArrayOfMaps<_, MapData> = array.try_into().map_err(failed)?;
        match array.get(&place, 0) {
            Ok(map) => Ok(Some(map)),
            Err(MapError::KeyNotFound) => Ok(None),
            // It was there, and is gone before it is opened.
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn remove(&self, place: u32) {
        let remove = |_, array: BorrowedFd<'_>| {
            // It may be there, or not.
            let _ = bpf::remove(array, place);
            Ok(())
        };
        let _ = self.in_each(remove);
    }

    /// Does something with each array, in threads, because each time the kernel waits for programs; with the first one last.
    fn in_each(
        &self,
        act: impl Fn(usize, BorrowedFd<'_>) -> io::Result<()> + Sync,
    ) -> io::Result<()> {
        let act = &act;
        let arrays = || self.each.iter().map(|array| array.fd().as_fd()).enumerate();
        thread::scope(|threads| {
            let others = arrays().skip(1).map(|(number, array)| {
                let begun =
                    thread::Builder::new().spawn_scoped(threads, move || act(number, array));
                // Where there can be no thread, it takes longer.
                begun.map_err(|_| act(number, array))
            });
            let others: Vec<_> = others.collect();
            others.into_iter().try_for_each(|other| match other {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|_| Err(io::ErrorKind::Other.into())),
                Err(done) => done,
            })
        })?;
        arrays()
            .take(1)
            .try_for_each(|(number, array)| act(number, array))
    }
}

/// What a map of any kind that is used here is made of.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(it)
        | Map::HashMap(it)
        | Map::LruHashMap(it)
        | Map::RingBuf(it)
        | Map::ArrayOfMaps(it) => Some(it),
        _ => None,
    }
}

/// The map of this name in an object.
///
/// # Errors
/// If there is none.
pub(super) fn map_of<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a MapData, Error> {
    ebpf.map(name)
        .and_then(data)
        .ok_or_else(|| Error::BadValue(format!("the object has no map {name}")))
}

/// The same map once more.
///
/// # Errors
/// If there are no more descriptors.
pub(super) fn again(map: &MapData) -> Result<MapData, Error> {
    let descriptor = map.fd().as_fd().try_clone_to_owned();
    descriptor
        .map_err(not_looked_at)
        .and_then(|it| MapData::from_fd(it).map_err(failed))
}

fn failed(error: MapError) -> Error {
    Error::kernel("cannot use a BPF map", &error)
}

fn not_looked_at(error: io::Error) -> Error {
    Error::kernel("cannot look at a BPF map", &error)
}
