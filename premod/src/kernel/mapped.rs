//! BPF arrays that premod reads where they are, without a system call.
//!
//! A task that asks for a value by `bpf(2)` can be preempted inside of that call, and until it runs again the kernel
//! skips every kprobe's program on that CPU (`bpf_disable_instrumentation`, 6.1 to 7.x). Whoever looks ten times a
//! second would bring about what he looks for.

use std::{io, marker::PhantomData, os::fd::AsFd, ptr::NonNull};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// An array map made with `BPF_F_MMAPABLE`, whose values are made of integers and a multiple of 8 bytes large.
#[derive(Debug)]
pub(crate) struct MappedArray<T> {
    start: NonNull<T>,
    /// Number of values.
    length: usize,
    /// Programs that are loaded later find the map by its descriptor.
    _map: MapData,
    _values: PhantomData<T>,
}

// SAFETY: memory of the kernel's that is only read, by volatile loads.
unsafe impl<T> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for MappedArray<T> {}

impl<T: Copy> MappedArray<T> {
    /// Maps an array of so many values.
    ///
    /// # Errors
    /// If the kernel does not map it.
    pub(crate) fn new(map: MapData, length: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        // SAFETY: a mapping of its own, where the kernel likes.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length * size_of::<T>(),
                ProtFlags::READ,
                MapFlags::SHARED,
                map.fd().as_fd(),
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            start,
            length,
            _map: map,
            _values: PhantomData,
        })
    }

    /// The values as they are now, one after the other: what is added meanwhile may be in a later one and not in an
    /// earlier one.
    pub(crate) fn values(&self) -> impl Iterator<Item = T> {
        (0..self.length).map(|index| {
            // SAFETY: inside of the mapping, which lives as long as `self`; page-aligned, and integers only.
            unsafe { self.start.add(index).read_volatile() }
        })
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody refers to any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length * size_of::<T>()) };
    }
}
