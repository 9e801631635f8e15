//! The few operations that need an instruction of their own.

use core::arch::asm;

/// Stores `new` at `place` if it holds `expected`; says whether it did.
///
/// # Safety
/// `place` points to 8 aligned bytes of a map value.
#[inline(always)]
pub(crate) unsafe fn compare_and_swap(place: *mut u64, expected: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: the caller vouches for `place`; the instruction clobbers r0 only, which is the output.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({place} + 0, r0, {new})",
            place = in(reg) place,
            new = in(reg) new,
            inlateout("r0") expected => found,
        );
    }
    found == expected
}

/// Stores `new` at `place` and returns what was there; a full barrier.
///
/// # Safety
/// `place` points to 8 aligned bytes of a map value.
#[inline(always)]
pub(crate) unsafe fn exchange(place: *mut u64, new: u64) -> u64 {
    let mut value = new;
    // SAFETY: the caller vouches for `place`; the instruction changes its operand only.
    unsafe {
        asm!(
            "{value} = xchg_64({place} + 0, {value})",
            place = in(reg) place,
            value = inout(reg) value,
        );
    }
    value
}

/// Sets bits at `place`.
///
/// # Safety
/// `place` points to 8 aligned bytes of a map value.
#[inline(always)]
pub(crate) unsafe fn or(place: *mut u64, bits: u64) {
    // SAFETY: the caller vouches for `place`.
    unsafe {
        asm!(
            "lock *(u64 *)({place} + 0) |= {bits}",
            place = in(reg) place,
            bits = in(reg) bits,
        );
    }
}

/// Adds one to a counter.
///
/// # Safety
/// `counter` points to 8 aligned bytes of a map value.
#[inline(always)]
pub(crate) unsafe fn increment(counter: *mut u64) {
    // SAFETY: the caller vouches for `counter`.
    unsafe { add(counter, 1) };
}

/// Adds to a counter, modulo 2^64.
///
/// # Safety
/// `counter` points to 8 aligned bytes of a map value.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, amount: u64) {
    // SAFETY: the caller vouches for `counter`. Atomic, because a task on this CPU can be preempted by
    // another one's program.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {amount}",
            counter = in(reg) counter,
            amount = in(reg) amount,
        );
    }
}

/// Adds one to a counter, and returns what it was.
///
/// # Safety
/// `counter` points to 8 aligned bytes of a map value.
#[inline(always)]
pub(crate) unsafe fn next(counter: *mut u64) -> u64 {
    let mut one = 1u64;
    // SAFETY: the caller vouches for `counter`; the instruction changes its operand only.
    unsafe {
        asm!(
            "{one} = atomic_fetch_add((u64 *)({counter} + 0), {one})",
            counter = in(reg) counter,
            one = inout(reg) one,
        );
    }
    one
}
