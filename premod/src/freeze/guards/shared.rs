//! The programs that all freezes of a machine share: the kernel takes 38 at one function.
//!
//! The first freeze attaches them and writes down what they are called in the kernel, in the run directory. Whoever comes
//! next opens the same. They stay attached as long as one freeze has them open: nothing is pinned, so that nothing is left
//! when the last one ends, or is killed.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState},
    io::{self, Read, Seek, Write},
    mem,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    thread::{Builder, sleep},
    time::{Duration, Instant},
};

use aya::{Ebpf, maps::MapData, programs::loaded_links};
use premod_common::{guard::Question, inode::InodeAddress};
use rustix::fs::{FlockOperation, flock};

use super::{
    place::{OwnMaps, SharedMaps, again, map_of},
    programs,
};
use crate::{
    error::Error,
    events::watch,
    kernel::{attach::Attachment, bpf, btf::Btf, environment::Environment},
};

/// Longest wait for other premods that attach programs, or take a place.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is tried.
const POLL: Duration = Duration::from_millis(5);

/// What is attached.
struct Attached {
    /// What another premod has attached.
    _links: Vec<OwnedFd>,
    /// The programs by their names.
    programs: HashMap<String, OwnedFd>,
    maps: SharedMaps,
    /// By what premod asks its question, without the question.
    nonce: u64,
}

/// The programs, and the place of this freeze among those that share them.
pub(super) struct Shared {
    attached: Attached,
    place: u32,
    guarded: Vec<InodeAddress>,
    /// Where they are written down; `None` if nobody else has them.
    record: Option<Record>,
}

/// What the shared programs are called in the kernel. The kernel gives no id again before it has given two billion others.
#[derive(serde::Serialize, serde::Deserialize)]
struct Ids {
    /// The boot that they are of.
    boot: String,
    nonce: u64,
    maps: BTreeMap<String, u32>,
    /// Ids of the program and of its link.
    programs: BTreeMap<String, (u32, u32)>,
}

/// The file in which they are written down, of all premods with the same programs.
pub(super) struct Record(File);

impl Record {
    /// Opens it in a directory that is root's alone, and makes it if need be.
    ///
    /// # Errors
    /// If that cannot be.
    pub(super) fn open(directory: &Path, object: &[u8]) -> Result<Self, Error> {
        let mut hasher = DefaultHasher::new();
        object.hash(&mut hasher);
        let path = directory.join(format!("programs-{:016x}", hasher.finish()));
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map(Self)
            .map_err(|error| Error::RunDirectory {
                path,
                reason: error.to_string(),
            })
    }

    /// Keeps others from changing it, and from taking places, until the file is closed or [`Record::unlock`]; whether that
    /// could be in time.
    fn lock(&self, timeout: Duration) -> bool {
        let began = Instant::now();
        loop {
            if flock(&self.0, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return true;
            }
            if began.elapsed() >= timeout {
                return false;
            }
            sleep(POLL);
        }
    }

    fn unlock(&self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }

    fn read(&mut self) -> Option<Ids> {
        let mut text = String::new();
        self.0.rewind().ok()?;
        self.0.read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn write(&mut self, ids: &Ids) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        self.0.write_all(serde_json::to_string(ids)?.as_bytes())
    }
}

impl Attached {
    /// Opens what others have attached; `None` if it is gone, or going.
    fn open(ids: &Ids) -> Option<Self> {
        let links: Vec<_> = ids.programs.values().map(|it| bpf::link(it.1)).collect();
        if links.iter().any(Result::is_err) {
            // It may be on us now to take the others off, for which the kernel takes its time.
            let _ = Builder::new().spawn(move || drop(links));
            return None;
        }
        let programs = ids.programs.iter().map(|(name, &(program, _))| {
            let program = bpf::program(program).ok()?;
            Some((name.clone(), program))
        });
        let map = |name: &str| {
            let id = ids.maps.get(name).copied().unwrap_or(0);
            MapData::from_id(id).map_err(|error| Error::kernel("cannot open a BPF map", &error))
        };
        Some(Self {
            programs: programs.collect::<Option<_>>()?,
            maps: SharedMaps::open(map).ok()?,
            _links: links.into_iter().flatten().collect(),
            nonce: ids.nonce,
        })
    }
}

impl Shared {
    /// Takes a place among the freezes that share programs already, or attaches those of the object and has others share them.
    ///
    /// # Errors
    /// If the kernel does not take one, or lacks something.
    pub(super) fn enter(
        ebpf: &mut Ebpf,
        own: &OwnMaps,
        nonce: u64,
        mut record: Record,
        btf: &Btf,
        environment: &Environment,
    ) -> Result<Self, Error> {
        if !record.lock(TIMEOUT) {
            tracing::warn!(
                "another premod freeze does not come to its end while it attaches programs; this one attaches its own"
            );
            let ways = programs::shared(btf, environment)?;
            return Self::alone(ebpf, own, nonce, &ways, btf, environment);
        }
        let boot = boot();
        let known = record.read().filter(|ids| Some(&ids.boot) == boot.as_ref());
        if let Some(mut attached) = known.and_then(|ids| Attached::open(&ids)) {
            let place = attached.maps.take(own)?;
            record.unlock();
            // What is in the object is nobody's, and takes megabytes.
            for name in SharedMaps::names() {
                drop(ebpf.take_map(name));
            }
            return Ok(Self {
                attached,
                place,
                guarded: Vec::new(),
                record: Some(record),
            });
        }
        let ways = programs::shared(btf, environment)?;
        let mut shared = Self::alone(ebpf, own, nonce, &ways, btf, environment)?;
        let ids = ids(ebpf, boot.unwrap_or_default(), nonce, &ways);
        let written = ids.and_then(|ids| record.write(&ids).map_err(|error| not_shared(&error)));
        match written {
            Ok(()) => {
                record.unlock();
                shared.record = Some(record);
            }
            Err(error) => {
                tracing::warn!("other freezes cannot use the programs of this one: {error}");
            }
        }
        Ok(shared)
    }

    /// Attaches programs that nobody else uses.
    ///
    /// # Errors
    /// As for [`Shared::enter`].
    pub(super) fn alone(
        ebpf: &mut Ebpf,
        own: &OwnMaps,
        nonce: u64,
        ways: &[Attachment],
        btf: &Btf,
        environment: &Environment,
    ) -> Result<Self, Error> {
        let mut maps = SharedMaps::open(|name| again(map_of(ebpf, name)?))?;
        // First, because the kernel waits for all programs that are running, whatever these are.
        let place = maps.take(own)?;
        programs::attach(ebpf, btf, environment, ways)?;
        let programs = ways.iter().map(|way| {
            let program = ebpf.program(way.program).ok_or_else(|| missing(way))?;
            Ok((way.program.to_owned(), watch(program)?))
        });
        let attached = Attached {
            _links: Vec::new(),
            programs: programs.collect::<Result<_, Error>>()?,
            maps,
            nonce,
        };
        Ok(Self {
            attached,
            place,
            guarded: Vec::new(),
            record: None,
        })
    }

    /// The programs by their names, once: what is attached stays so without.
    pub(super) fn take_programs(&mut self) -> HashMap<String, OwnedFd> {
        mem::take(&mut self.attached.programs)
    }

    /// By what premod asks about a file (the argument of fcntl).
    pub(super) fn question(&self, interrupts: bool) -> u64 {
        let place = self.place;
        self.attached.nonce | Question { place, interrupts }.number()
    }

    /// Guards an inode.
    ///
    /// # Errors
    /// If there is no room, or another premod does not come to its end.
    pub(super) fn guard(&mut self, inode: InodeAddress) -> Result<(), Error> {
        // Whoever tidies up after one that was killed is not to take this for its.
        if let Some(record) = &self.record
            && !record.lock(TIMEOUT)
        {
            return Err(Error::Kernel {
                context: "cannot guard a file".to_owned(),
                reason: "another premod freeze does not come to its end while it attaches programs"
                    .to_owned(),
            });
        }
        self.guarded.push(inode);
        let guarded = self.attached.maps.guard(inode, self.place);
        if let Some(record) = &self.record {
            record.unlock();
        }
        guarded
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.attached.maps.give_back(self.place, &self.guarded);
        // Somebody else shortens it later, if it cannot be now.
        if let Some(record) = &self.record
            && record.lock(Duration::ZERO)
        {
            self.attached.maps.shorten();
            record.unlock();
        }
    }
}

/// A random number with room for a [`Question`].
pub(super) fn nonce() -> u64 {
    RandomState::new().hash_one(std::process::id()) & !Question::MASK
}

/// Which boot this is, where the kernel tells.
fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

/// What the programs of an object, which are attached, and its maps are called in the kernel.
fn ids(ebpf: &Ebpf, boot: String, nonce: u64, ways: &[Attachment]) -> Result<Ids, Error> {
    let links: HashMap<u32, u32> = loaded_links()
        .flatten()
        .map(|link| (link.program_id(), link.id()))
        .collect();
    let programs = ways.iter().map(|way| {
        let program = ebpf.program(way.program).ok_or_else(|| missing(way))?;
        let info = program.info().map_err(|error| not_shared(&error))?;
        let link = links.get(&info.id()).ok_or_else(|| {
            let error = io::Error::from(io::ErrorKind::NotFound);
            not_shared(&error)
        })?;
        Ok((way.program.to_owned(), (info.id(), *link)))
    });
    let maps = SharedMaps::names().map(|name| {
        let info = map_of(ebpf, name)?.info();
        Ok((
            name.to_owned(),
            info.map_err(|error| not_shared(&error))?.id(),
        ))
    });
    Ok(Ids {
        boot,
        nonce,
        maps: maps.collect::<Result<_, Error>>()?,
        programs: programs.collect::<Result<_, Error>>()?,
    })
}

fn missing(way: &Attachment) -> Error {
    Error::BadValue(format!("the object has no program {}", way.program))
}

fn not_shared(error: &dyn std::error::Error) -> Error {
    Error::kernel("cannot write down which programs these are", error)
}
