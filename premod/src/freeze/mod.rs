//! Freezing files: their bytes do not change until they are thawed, and writers hardly notice.
//!
//! One running `premod freeze` holds one *set* of files.
//!
//! ```text
//! Freezer::prepare   programs hang, everybody passes
//! Freezer::close     modifiers are kept out; those in flight land; the files are flushed and verified
//!        next        who is held, and whatever goes wrong
//!        thaw        everybody passes, and whoever was stopped is continued
//! ```
//!
//! `guards` is the kernel side, [`keeper`] the process that continues what was stopped when premod cannot.
//! The [`registry`] keeps two sets from freezing the same file, and knows which set a file belongs to; through
//! [`control`] others ask a set how it does and tell it to thaw; what it answers is a [`report::SetReport`],
//! made by its [`account`].

pub mod account;
mod builder;
pub mod control;
mod drain;
mod ended;
mod file_id;
mod flush;
mod freezer;
pub(crate) mod guards;
mod happened;
pub mod keeper;
mod keeping;
mod kernel_use;
mod links;
mod listening;
mod lock;
mod names;
mod others;
mod pins;
mod private;
mod processes;
mod ptrace;
pub mod registry;
pub mod report;
mod rings;
pub mod seizer;
mod server;
mod signals;
mod skips;
mod spelling;
mod stop;
mod target;
#[cfg(test)]
pub(crate) mod tests;
mod users;

pub use builder::FreezerBuilder;
pub use freezer::Freezer;
pub use happened::{Frozen, Happened, Terms, Thawed, Violation, Why};
pub use keeping::run as keep;
pub use target::Target;
pub use users::{Access, User};
