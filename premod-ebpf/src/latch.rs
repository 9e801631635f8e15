//! A number that only grows, in the object's own memory: a look at it costs one load, a look into a map a hundred.

use core::{
    cell::UnsafeCell,
    ptr::{read_volatile, write_volatile},
};

use crate::atomic::{compare_and_swap, increment, next};

/// How often a number that others raise, too, is tried to be raised.
const ATTEMPTS: u32 = 4;

#[repr(transparent)]
pub(crate) struct Latch(UnsafeCell<u64>);

// SAFETY: every access to it is volatile or atomic.
unsafe impl Sync for Latch {}

impl Latch {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        // SAFETY: an aligned u64 of ours.
        unsafe { read_volatile(self.0.get()) }
    }

    /// Makes it larger.
    #[inline(always)]
    pub(crate) fn increase(&self) {
        // SAFETY: an aligned u64 of ours.
        unsafe { increment(self.0.get()) };
    }

    /// Makes it larger, and returns a value that nobody else is given.
    #[inline(always)]
    pub(crate) fn next(&self) -> u64 {
        // SAFETY: an aligned u64 of ours.
        unsafe { next(self.0.get()) + 1 }
    }

    /// Makes it at least `value`. If others are in the way all the time it becomes as large as can be, which makes
    /// everybody look closer.
    #[inline(always)]
    pub(crate) fn raise(&self, value: u64) {
        for _ in 0..ATTEMPTS {
            let now = self.get();
            // SAFETY: an aligned u64 of ours.
            if now >= value || unsafe { compare_and_swap(self.0.get(), now, value) } {
                return;
            }
        }
        // SAFETY: an aligned u64 of ours.
        unsafe { write_volatile(self.0.get(), u64::MAX) };
    }
}
