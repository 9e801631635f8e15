//! Tables in the object's own memory in which each inode has one slot, that it shares with others: who comes last has it.
//! To find it costs a few instructions, a look into a map a hundred.

use core::{arch::asm, cell::UnsafeCell};

/// So many slots, a power of two.
#[repr(transparent)]
pub(crate) struct Slots<T, const COUNT: usize>(UnsafeCell<[T; COUNT]>);

// SAFETY: all that is given out is a raw pointer, and every access by it is volatile or atomic.
unsafe impl<T, const COUNT: usize> Sync for Slots<T, COUNT> {}

impl<T, const COUNT: usize> Slots<T, COUNT> {
    pub(crate) const fn new(slots: [T; COUNT]) -> Self {
        const { assert!(COUNT.is_power_of_two() && COUNT > 1) };
        Self(UnsafeCell::new(slots))
    }

    /// The slot of what is at this address in the kernel's memory.
    #[inline(always)]
    pub(crate) fn of(&'static self, address: u64) -> *mut T {
        let lower: u32;
        // The verifier forbids to calculate with addresses, but not with the lower half of one.
        // SAFETY: registers only. The compiler would multiply in place, which is to calculate with an address.
        unsafe {
            asm!("{lower} = {address}", lower = out(wreg) lower, address = in(wreg) address as u32)
        };
        // Fibonacci hashing: the upper bits of the product depend on all bits of the address.
        let mixed = lower.wrapping_mul(0x9e37_79b9);
        let index = (mixed >> (32 - COUNT.ilog2())) as usize & (COUNT - 1);
        // SAFETY: the index is smaller than COUNT.
        unsafe { self.0.get().cast::<T>().add(index) }
    }
}
