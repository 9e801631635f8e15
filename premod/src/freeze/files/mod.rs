//! The files: which are refused, what leads to them, and how they are flushed.

pub(super) mod flush;
pub(super) mod kernel_use;
pub(super) mod names;
pub(super) mod target;
