//! Read-only data that the loader sets before the programs are verified: what the kernel looks like, and what
//! this run is to do.

use premod_common::facts::{Facts, Settings};

/// The kernel's layout.
#[unsafe(no_mangle)]
// SAFETY: integers only.
pub(crate) static FACTS: Facts = unsafe { core::mem::zeroed() };

/// This run's settings.
#[unsafe(no_mangle)]
// SAFETY: integers only.
pub(crate) static SETTINGS: Settings = unsafe { core::mem::zeroed() };

/// Reads one field of [`FACTS`] as the loader has set it.
macro_rules! fact {
    ($field:ident) => {
        $crate::facts::as_loaded(&$crate::facts::FACTS.$field)
    };
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
