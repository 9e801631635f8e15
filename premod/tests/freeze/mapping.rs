//! Shared mappings that are older than any freeze.

use std::{fs::File, os::fd::AsFd};

use rustix::mm::{MapFlags, ProtFlags};

use crate::region::{BLOCK, TAIL, words};

/// The regions of a file in memory.
pub(crate) struct Mapping(*mut u64);

// SAFETY: the memory is the process's, and each writer stores to its own region only.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the regions. They are never unmapped.
    pub(crate) fn shared(file: &File) -> Self {
        let (nowhere, length) = (std::ptr::null_mut(), TAIL as usize);
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address =
            unsafe { rustix::mm::mmap(nowhere, length, protection, flags, file.as_fd(), 0) };
        Self(address.expect("a mapping").cast())
    }

    /// Stores a block, word by word.
    pub(crate) fn store(&mut self, offset: usize, writer: usize, count: u64) {
        assert!(offset + BLOCK <= TAIL as usize);
        for (number, word) in words(writer, count).enumerate() {
            // SAFETY: inside of the mapping; volatile, because others look at it.
            unsafe { self.0.add(offset / 8 + number).write_volatile(word) };
        }
    }
}
