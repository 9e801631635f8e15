//! The entries from the kernel, one file per family.

mod dirty;
mod enrol;
mod evict;
mod exchange;
mod mmap;
mod names;
mod page;
mod space;
mod sync;
mod truncate;
mod write;
