//! The verbs of the command line, one file each.

mod child;
pub mod doctor;
pub mod freeze;
pub mod trace;
