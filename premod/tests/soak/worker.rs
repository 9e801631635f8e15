//! One of the processes that operate on the shared files.

use std::{
    fs::File,
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::Ordering::SeqCst,
    thread,
    time::Duration,
};

use rustix::fs::OFlags;

use crate::{
    board::{Board, Entry, Phase, SLOTS, Slot, UNDISTURBED},
    files::{self, LARGEST, Locks, NAMES, now},
    kinds::Kind,
    mapping::{Aligned, Mapping, survive_bus_errors},
    operations,
};

/// A slot's file, as this process has it open. It may be an older one than the one that has the name now.
pub(crate) struct Handle {
    pub(crate) inode: u64,
    pub(crate) file: File,
    pub(crate) append: Option<File>,
    pub(crate) direct: Option<File>,
    /// Kept for as long as possible: stores through old mappings are what the soak is about.
    pub(crate) mapping: Option<Mapping>,
}

/// Where an operation takes place.
pub(crate) struct Place<'a> {
    pub(crate) traced: &'a Path,
    pub(crate) number: usize,
    pub(crate) slot: &'a Slot,
}

/// What every operation may use.
pub(crate) struct Tools {
    pub(crate) random: fastrand::Rng,
    /// Random bytes to write.
    pub(crate) noise: Vec<u8>,
    /// The same in a file.
    pub(crate) noise_file: File,
    /// The same where direct I/O wants it.
    pub(crate) aligned: Box<Aligned>,
}

struct Worker {
    board: &'static Board,
    number: u8,
    mounts: Vec<PathBuf>,
    kinds: Vec<String>,
    locks: Locks,
    handles: Vec<Vec<Option<Handle>>>,
    tools: Tools,
}

/// Operates until the board says that it is over.
pub(crate) fn run(directory: &Path, number: u8, seed: u64) {
    survive_bus_errors();
    let mounts = files::mounts();
    let mut random = fastrand::Rng::with_seed(seed);
    let noise: Vec<u8> = (0..LARGEST).map(|_| random.u8(..)).collect();
    let noise_path = directory.join(format!("noise-{number}"));
    std::fs::write(&noise_path, &noise).expect("a file of noise");
    let mut aligned = Box::new(Aligned([0; _]));
    let length = aligned.0.len();
    aligned.0.copy_from_slice(&noise[..length]);
    let mut worker = Worker {
        board: Board::open(&directory.join("board"), false),
        number,
        locks: Locks::open(directory, mounts.len()),
        handles: mounts
            .iter()
            .map(|_| (0..SLOTS).map(|_| None).collect())
            .collect(),
        kinds: mounts.iter().map(|(kind, _)| kind.clone()).collect(),
        mounts: mounts
            .iter()
            .map(|(_, mount)| files::traced(mount))
            .collect(),
        tools: Tools {
            random,
            noise,
            noise_file: File::open(&noise_path).expect("a file of noise"),
            aligned,
        },
    };
    // Descriptors and mappings that are older than premod's trace.
    for filesystem in 0..worker.mounts.len() {
        for slot in 0..SLOTS {
            let handle = Handle::open(&worker.mounts[filesystem], slot, 0);
            let mut handle = handle.expect("a file to begin with");
            handle.map().expect("a mapping to begin with");
            worker.handles[filesystem][slot] = Some(handle);
        }
    }
    loop {
        match worker.board.phase() {
            Phase::Wait => thread::sleep(Duration::from_millis(20)),
            Phase::Work => worker.step(),
            Phase::End => return,
        }
    }
}

impl Worker {
    fn step(&mut self) {
        let random = &mut self.tools.random;
        let filesystem = random.usize(0..self.mounts.len());
        let slot = random.usize(0..SLOTS);
        let kind = Kind::choose(random);
        if matches!(kind, Kind::Clone | Kind::CloneRange) && self.kinds[filesystem] == "ext4" {
            return;
        }
        if kind.cleans() && !kind.is_everywhere() && slot >= SLOTS - UNDISTURBED {
            return;
        }
        let shared = &self.board.filesystems[filesystem];
        if shared.slots[slot].wanted.load(SeqCst) > 0 {
            thread::yield_now();
            return;
        }
        match kind {
            _ if kind.is_everywhere() => {
                let mounts = &self.mounts;
                let work = || {
                    let result = operations::on_filesystem(kind, &mounts[filesystem]);
                    if kind == Kind::Sync {
                        self.board.has_synced();
                    }
                    result
                };
                let result = if kind.cleans() {
                    self.board.cleaning(work)
                } else {
                    work()
                };
                self.board.count(kind, result.is_ok());
            }
            Kind::Recreate => self.recreate(filesystem, slot),
            _ => self.on_file(kind, filesystem, slot),
        }
    }

    /// Gives the slot's name to a new file. Handles of the old one stay in use for a while.
    fn recreate(&mut self, filesystem: usize, slot: usize) {
        let traced = &self.mounts[filesystem];
        let shared = &self.board.filesystems[filesystem].slots[slot];
        shared.wanted.fetch_add(1, SeqCst);
        let lock = self.locks.exclusive(filesystem, slot);
        shared.wanted.fetch_sub(1, SeqCst);
        let name = shared.name.load(SeqCst);
        let path = files::path(traced, slot, name);
        let result = shared.cleaning.during(|| {
            std::fs::remove_file(&path)?;
            let file = File::options().write(true).create_new(true).open(&path)?;
            Ok::<u64, io::Error>(file.metadata()?.ino())
        });
        let inode = result.expect("a name can be given to a new file");
        shared.current.store(inode, SeqCst);
        self.note(shared, Kind::Recreate, inode, true, false);
        drop(lock);
    }

    fn on_file(&mut self, kind: Kind, filesystem: usize, slot: usize) {
        let traced = &self.mounts[filesystem];
        let shared = &self.board.filesystems[filesystem];
        let place = Place {
            traced,
            number: slot,
            slot: &shared.slots[slot],
        };
        // Any file may be the source, this one too; it is only read.
        let source = if kind.cleans() {
            self.tools.random.usize(0..SLOTS - UNDISTURBED)
        } else {
            self.tools.random.usize(0..SLOTS)
        };
        let from = self.handles[filesystem][source]
            .as_ref()
            .and_then(|handle| handle.file.try_clone().ok());
        let lock = self.locks.shared(filesystem, slot);
        let tools = &mut self.tools;
        let handle = self.handles[filesystem][slot].take();
        let Some(mut handle) = current(handle, &place, &mut tools.random) else {
            return;
        };
        let mut work = || operations::on_file(kind, &mut handle, &place, from.as_ref(), tools);
        let result = if !kind.cleans() {
            work()
        } else if matches!(kind, Kind::Clone | Kind::CloneRange | Kind::CopyRange) {
            // Reflinks write back the source as well.
            let clean = &shared.slots[source].cleaning;
            clean.during(|| place.slot.cleaning.during(work))
        } else {
            place.slot.cleaning.during(work)
        };
        let changed = *result.as_ref().unwrap_or(&false);
        self.note(place.slot, kind, handle.inode, result.is_ok(), changed);
        let slot = &mut self.handles[filesystem][place.number];
        if kind == Kind::Close {
            place.slot.cleaning.during(|| drop(handle));
        } else {
            *slot = Some(handle);
        }
        drop(lock);
    }

    fn note(&self, slot: &Slot, kind: Kind, inode: u64, done: bool, changed: bool) {
        self.board.count(kind, done);
        let entry = Entry {
            at: now(),
            kind,
            worker: self.number,
            done,
            elsewhere: false,
        };
        slot.note(inode, entry, changed);
    }
}

/// What a process has open of the slot's file, opened if need be.
fn current(
    handle: Option<Handle>,
    place: &Place<'_>,
    random: &mut fastrand::Rng,
) -> Option<Handle> {
    if let Some(handle) = handle {
        // One that has lost its name is used some more.
        if handle.inode == place.slot.current.load(SeqCst) || random.u32(0..8) > 0 {
            return Some(handle);
        }
        place.slot.cleaning.during(|| drop(handle));
    }
    let name = place.slot.name.load(SeqCst);
    // Somebody may just be renaming it.
    Handle::open(place.traced, place.number, name).ok()
}

impl Handle {
    fn open(traced: &Path, slot: usize, name: u64) -> io::Result<Self> {
        let path = files::path(traced, slot, name % NAMES);
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self {
            inode: file.metadata()?.ino(),
            file,
            append: None,
            direct: None,
            mapping: None,
        })
    }

    /// Opens the same inode once more.
    pub(crate) fn again(&self, flags: OFlags) -> io::Result<File> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        File::options()
            .write(true)
            .custom_flags(flags.bits() as i32)
            .open(path)
    }

    /// The mapping, which is made if there is none.
    pub(crate) fn map(&mut self) -> io::Result<&mut Mapping> {
        let mapping = match self.mapping.take() {
            Some(mapping) => mapping,
            None => Mapping::shared(&self.file, LARGEST as usize)?,
        };
        Ok(self.mapping.insert(mapping))
    }
}
