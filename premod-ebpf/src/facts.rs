//! What the loader tells the programs before they are verified: what the kernel looks like, and what this run is
//! to do.
//!
//! What the kernel looks like stands in the instructions themselves, where the loader finds the marks of
//! [`premod_common::facts::mark`]: from read-only data each use would cost two instructions more, which a hot path
//! can tell.

use core::arch::asm;

use premod_common::facts::{Settings, mark};

/// This run's settings.
#[unsafe(no_mangle)]
// SAFETY: integers only.
pub(crate) static SETTINGS: Settings = unsafe { core::mem::zeroed() };

/// A fact about the kernel.
macro_rules! fact {
    ($field:ident) => {
        $crate::facts::value::<{ core::mem::offset_of!(premod_common::facts::Facts, $field) }>()
    };
}

/// The fact that is so many bytes into [`premod_common::facts::Facts`]: one instruction, whose value the loader
/// fills in.
#[inline(always)]
pub(crate) fn value<const FACT: usize>() -> u32 {
    let value: u32;
    // SAFETY: registers only.
    unsafe {
        asm!(
            "{value} = {mark}",
            value = out(wreg) value,
            mark = const mark::VALUE + FACT as i32 / 4,
            options(pure, nomem, nostack),
        );
    }
    value
}

/// Reads one field of [`SETTINGS`] as the loader has set it.
macro_rules! setting {
    ($field:ident) => {
        $crate::facts::as_loaded(&$crate::facts::SETTINGS.$field)
    };
}

/// Reads what the loader has put in the place of the compiled-in zero.
#[inline(always)]
pub(crate) fn as_loaded<T: Copy>(field: &'static T) -> T {
    // SAFETY: a valid reference; volatile keeps the compiler from folding the zeroes.
    unsafe { core::ptr::read_volatile(field) }
}

pub(crate) use {fact, setting};
