//! Everything that depends on the running kernel: what it looks like, what it allows, and the programs
//! loaded into it.

pub mod attach;
pub(crate) mod bpf;
pub mod btf;
pub mod caps;
pub(crate) mod detach;
pub mod enrol;
pub mod environment;
pub mod facts;
pub mod hooks;
pub mod load;
pub(crate) mod mapped;
#[cfg(test)]
mod properties;
pub(crate) mod relocate;
mod tracefs;
