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
//! ```text
//! builder, freezer, drain, listening, happened    the freeze itself, from its beginning to the thaw
//! files     what is frozen: targets, the names that lead to them, flushing
//! users     who uses the files, asked of the kernel
//! guards    the kernel side: programs, maps, the switch, where they are pinned
//! hold      processes that stand still: the keeper, which lets them go whatever becomes of premod, and its seizer
//! claims    the registry, which keeps two sets from freezing the same file, and control, through which others ask a set
//!           how it does and tell it to thaw
//! report    what a set answers, and the account that makes it
//! ```

mod builder;
mod claims;
mod drain;
mod files;
mod freezer;
mod guards;
mod happened;
mod hold;
mod listening;
mod private;
pub mod report;
#[cfg(test)]
pub(crate) mod tests;
mod users;

pub use builder::FreezerBuilder;
pub use claims::{control, registry, thaw};
pub use files::target::Target;
pub use freezer::Freezer;
pub use happened::{Frozen, Happened, Terms, Thawed, Violation, Why};
pub use hold::{keeper, keeping::run as keep, seizer};
pub use report::account;
pub use users::{Access, Fate, User};
