//! Freezing: files whose bytes do not change for a while.
//!
//! One running `premod freeze` holds one *set* of files. The [`registry`] keeps two of them from freezing
//! the same file, and knows which set a file belongs to; through [`control`] others ask a set how it does
//! and tell it to thaw; what it answers is a [`report::SetReport`].

pub mod control;
mod file_id;
pub mod keeper;
mod lock;
pub mod registry;
pub mod report;
mod server;
mod spelling;
#[cfg(test)]
pub(crate) mod tests;
