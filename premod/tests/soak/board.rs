//! What the soak's processes share: one file in /dev/shm, mapped by each of them.

use std::{
    fs::File,
    os::fd::AsFd,
    path::Path,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
};

use rustix::mm::{MapFlags, ProtFlags};

use crate::{
    files::now,
    kinds::{self, Kind},
};

/// Filesystems at most.
pub(crate) const FILESYSTEMS: usize = 3;
/// Files on each filesystem that the workers share.
pub(crate) const SLOTS: usize = 12;
/// The last of them are only operated on in ways that write nothing back, so that it can be judged whether
/// there is exactly one event.
pub(crate) const UNDISTURBED: usize = 4;
/// The last operations of a period that are remembered, for the report of a failure.
const REMEMBERED: usize = 64;

/// All that is shared. A zeroed file is a valid beginning.
#[repr(C)]
pub(crate) struct Board {
    /// 0: wait, 1: work, 2: end.
    phase: AtomicU32,
    /// Workers shall rest.
    pub(crate) pause: AtomicU32,
    /// Workers that do.
    pub(crate) resting: AtomicU32,
    padding: AtomicU32,
    /// When sync(2) ended last, by `CLOCK_MONOTONIC`.
    synced: AtomicU64,
    /// Files created by the churn so far.
    pub(crate) churned: AtomicU64,
    done: [AtomicU64; kinds::COUNT],
    failed: [AtomicU64; kinds::COUNT],
    pub(crate) filesystems: [Filesystem; FILESYSTEMS],
}

/// What is shared about one filesystem.
#[repr(C)]
pub(crate) struct Filesystem {
    /// Operations that write back everything.
    pub(crate) cleaning: Cleaning,
    pub(crate) slots: [Slot; SLOTS],
}

/// What is shared about one file. Whoever operates on it holds its lock ([`crate::files::Locks`]) shared;
/// the checker, and whoever replaces the file, exclusively.
#[repr(C)]
pub(crate) struct Slot {
    /// Number of the inode that has the slot's name.
    pub(crate) current: AtomicU64,
    /// Which of its names it has.
    pub(crate) name: AtomicU64,
    /// Somebody waits for the exclusive lock.
    pub(crate) wanted: AtomicU64,
    /// Number of the inode whose period is observed, which may have lost its name in the meantime.
    pub(crate) tracked: AtomicU64,
    /// When the first modification of the period was complete; `u64::MAX` before that.
    first_change: AtomicU64,
    /// Modifications completed in this period.
    changes: AtomicU64,
    /// Operations that may write this file's dirty pages back.
    pub(crate) cleaning: Cleaning,
    logged: AtomicU64,
    log: [[AtomicU64; 2]; REMEMBERED],
}

/// Counts operations that may write dirty pages back, at their begin and at their end.
#[repr(C)]
pub(crate) struct Cleaning {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// An operation of the period, for the report of a failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    pub(crate) worker: u8,
    pub(crate) done: bool,
    /// It went to an older inode of the slot than the one that is observed, or to a newer one.
    pub(crate) elsewhere: bool,
}

/// What happened to a slot's file in a period.
pub(crate) struct Happened {
    pub(crate) first_change: Option<u64>,
    pub(crate) changes: u64,
    pub(crate) log: Vec<Entry>,
}

/// What the workers have to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Wait,
    Work,
    End,
}

impl Board {
    /// Makes a new board, or with `create` false takes part in an existing one. It is never unmapped.
    pub(crate) fn open(path: &Path, create: bool) -> &'static Self {
        let file = File::options()
            .read(true)
            .write(true)
            .create(create)
            .truncate(create)
            .open(path)
            .expect("the board can be opened");
        let size = size_of::<Self>();
        if create {
            file.set_len(size as u64).expect("room for the board");
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                size,
                protection,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )
        };
        let address = address.expect("the board can be mapped").cast::<Self>();
        // SAFETY: the mapping has the size of a board, is aligned to a page and stays for ever; a board
        // consists of atomic integers, for which any bytes are valid.
        unsafe { &*address }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(SeqCst) {
            0 => Phase::Wait,
            1 => Phase::Work,
            _ => Phase::End,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u32, SeqCst);
    }

    /// Whether nobody has called sync(2) for a while. It wakes the flushers of all disks, and waits for what it writes
    /// back itself, not for them (ksys_sync, wakeup_flusher_threads): where tasks wait for a CPU, they come later.
    pub(crate) fn is_settled(&self) -> bool {
        const FLUSHERS: u64 = 1_000_000_000;
        now() - self.synced.load(SeqCst) > FLUSHERS
    }

    /// Notes that sync(2) has ended.
    pub(crate) fn has_synced(&self) {
        self.synced.store(now(), SeqCst);
    }

    /// Does something that may write back every file of every filesystem.
    pub(crate) fn cleaning<T>(&self, work: impl FnOnce() -> T) -> T {
        let [first, second, third] = &self.filesystems;
        let third = || third.cleaning.during(work);
        first.cleaning.during(|| second.cleaning.during(third))
    }

    pub(crate) fn count(&self, kind: Kind, done: bool) {
        let counters = if done { &self.done } else { &self.failed };
        counters[kind as usize].fetch_add(1, SeqCst);
    }

    /// How many operations of this kind succeeded, and how many failed.
    pub(crate) fn counted(&self, kind: Kind) -> (u64, u64) {
        let number = kind as usize;
        (
            self.done[number].load(SeqCst),
            self.failed[number].load(SeqCst),
        )
    }
}

impl Slot {
    /// Begins to observe an inode. The caller holds the lock exclusively.
    pub(crate) fn begin(&self, inode: u64) {
        self.tracked.store(inode, SeqCst);
        self.first_change.store(u64::MAX, SeqCst);
        self.changes.store(0, SeqCst);
        self.logged.store(0, SeqCst);
    }

    /// An operation on `inode` has ended. The caller holds the lock.
    pub(crate) fn note(&self, inode: u64, mut entry: Entry, changed: bool) {
        entry.elsewhere = inode != self.tracked.load(SeqCst);
        if changed && !entry.elsewhere {
            self.first_change.fetch_min(entry.at, SeqCst);
            self.changes.fetch_add(1, SeqCst);
        }
        let place = self.logged.fetch_add(1, SeqCst) as usize % REMEMBERED;
        let packed = entry.kind as u64
            | u64::from(entry.worker) << 8
            | u64::from(entry.done) << 16
            | u64::from(entry.elsewhere) << 17;
        self.log[place][0].store(entry.at, SeqCst);
        self.log[place][1].store(packed, SeqCst);
    }

    /// What has happened since [`Slot::begin`]. The caller holds the lock exclusively.
    pub(crate) fn happened(&self) -> Happened {
        let first = self.first_change.load(SeqCst);
        let logged = REMEMBERED.min(self.logged.load(SeqCst) as usize);
        let mut log: Vec<Entry> = self.log[..logged]
            .iter()
            .filter_map(|[at, packed]| {
                let packed = packed.load(SeqCst);
                Some(Entry {
                    at: at.load(SeqCst),
                    kind: Kind::from_number(packed as u8)?,
                    worker: (packed >> 8) as u8,
                    done: packed >> 16 & 1 != 0,
                    elsewhere: packed >> 17 & 1 != 0,
                })
            })
            .collect();
        log.sort_by_key(|entry| entry.at);
        Happened {
            first_change: (first != u64::MAX).then_some(first),
            changes: self.changes.load(SeqCst),
            log,
        }
    }
}

impl Cleaning {
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.begun.fetch_add(1, SeqCst);
        let result = work();
        self.ended.fetch_add(1, SeqCst);
        result
    }

    /// How many have begun, if none is going on.
    pub(crate) fn quiet(&self) -> Option<u64> {
        // This order: an operation that ends in between makes the two differ.
        let ended = self.ended.load(SeqCst);
        (self.begun.load(SeqCst) == ended).then_some(ended)
    }

    /// Whether none has begun since [`Cleaning::quiet`] said this.
    pub(crate) fn still(&self, quiet: u64) -> bool {
        quiet == self.begun.load(SeqCst)
    }
}
