//! Which freeze a file belongs to, and how freezes are asked: premod processes find each other in the run directory.

pub mod control;
mod ended;
mod file_id;
mod links;
mod lock;
pub mod registry;
mod server;
pub mod thaw;
