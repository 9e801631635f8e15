//! The few operations that need an instruction of their own.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

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

/// Returns `value`, of which the verifier then knows nothing.
///
/// The verifier of 6.1 takes two states for one when they differ only in a constant that went through a
/// call with a callback in between; it then cuts the branch that belongs to the other constant. We have
/// seen it drop the counting of repeated announcements.
#[inline(always)]
pub(crate) fn opaque(value: u64) -> u64 {
    // SAFETY: no preconditions.
    let noise = unsafe { bpf_ktime_get_ns() };
    let mut opaque = value;
    // SAFETY: registers only.
    unsafe {
        asm!("{value} ^= {noise}", value = inout(reg) opaque, noise = in(reg) noise);
        asm!("{value} ^= {noise}", value = inout(reg) opaque, noise = in(reg) noise);
    }
    opaque
}
