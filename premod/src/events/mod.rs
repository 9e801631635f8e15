//! Events as programs see them: typed, decoded, with their losses.

mod decode;
mod directories;
mod duplicates;
mod losses;
#[cfg(test)]
mod properties;
mod record;

pub(crate) use decode::{Clocks, Decoder};
pub(crate) use duplicates::Duplicates;
pub(crate) use losses::{Losses, Skippable, watch};
pub use premod_common::event::Op;
pub use record::{
    Device, FirstDirty, InodeKey, Lost, LostReason, MonotonicNs, Path, PathChange, PathChanged,
    Pid, Range, Record, Tid,
};

/// The time on `CLOCK_MONOTONIC`.
pub(crate) fn now() -> MonotonicNs {
    Clocks::now().mono
}
