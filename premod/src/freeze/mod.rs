//! Freezing files: their bytes do not change until they are thawed, and writers hardly notice.
//!
//! ```text
//! Freezer::prepare   programs hang, everybody passes
//! Freezer::close     modifiers are kept out; those in flight land; the files are flushed and verified
//!        next        who is held, and whatever went wrong
//!        thaw        everybody passes, and whoever was stopped is continued
//! ```
//!
//! [`guards`] is the kernel side, [`keeper`] the process that continues what was stopped when premod cannot.

mod drain;
mod flush;
mod freezer;
pub(crate) mod guards;
pub mod keeper;
mod processes;
mod stop;
mod target;

pub use freezer::{Freezer, FreezerBuilder, Happened, Thawed, Violation, Why};
pub use processes::{Access, User};
pub use target::Target;
