//! Examines a machine: what there is, what is missing, what that costs and how it is mended.
//!
//! [`gather`] collects, [`checks`] judges (pure functions over what was gathered), [`report`] shows.

pub mod checks;
pub mod filesystems;
pub mod gather;
pub mod probe;
pub mod report;
