//! What the writers and whoever watches them share: a file in /dev/shm, mapped by each of them.

use std::{
    fs::File,
    os::fd::AsFd,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use rustix::mm::{MapFlags, ProtFlags};

/// Writers at most.
pub(crate) const LINES: usize = 32;

/// All that is shared. A zeroed file is a valid beginning.
#[repr(C)]
pub(crate) struct Board {
    /// 0: wait, 1: work, 2: end.
    phase: AtomicU64,
    /// Not zero: a writer may be refused with EBUSY.
    deny: AtomicU64,
    /// Milliseconds between two operations of a writer, so that two emulated CPUs have time for premod too.
    pub(crate) pace: AtomicU64,
    pub(crate) lines: [Line; LINES],
}

/// What is known of one writer.
#[repr(C)]
pub(crate) struct Line {
    /// 1 when it has opened and mapped everything.
    pub(crate) ready: AtomicU64,
    /// Operations that were completed.
    pub(crate) done: AtomicU64,
    /// Operations that were refused, and had changed nothing.
    pub(crate) refused: AtomicU64,
    /// Requests that had to be submitted again.
    pub(crate) again: AtomicU64,
    /// When the last operation was completed.
    last: AtomicU64,
    /// Longest time between two completed operations since somebody has set it to 0.
    pub(crate) gap: AtomicU64,
}

/// What the writers have to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Wait,
    Work,
    End,
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
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
        let nowhere = std::ptr::null_mut();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            rustix::mm::mmap(nowhere, size, protection, MapFlags::SHARED, file.as_fd(), 0)
        };
        let address = address.expect("a mapping");
        // SAFETY: the file has the structure's size; atomics may be shared, and zeroes are valid ones.
        unsafe { &*address.cast::<Self>() }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(SeqCst) {
            0 => Phase::Wait,
            1 => Phase::Work,
            _ => Phase::End,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u64, SeqCst);
    }

    /// Whether a writer may be refused.
    pub(crate) fn may_deny(&self) -> bool {
        self.deny.load(SeqCst) != 0
    }

    pub(crate) fn let_deny(&self, deny: bool) {
        self.deny.store(u64::from(deny), SeqCst);
    }
}

impl Line {
    /// Notes an operation that was completed.
    pub(crate) fn complete(&self) {
        let now = now();
        let last = self.last.swap(now, SeqCst);
        if last != 0 {
            self.gap.fetch_max(now - last, SeqCst);
        }
        self.done.fetch_add(1, SeqCst);
    }

    /// When the last operation was completed.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(SeqCst)
    }
}
