//! The entries from the kernel, one file per family.

mod dirty;
mod enrol;
mod evict;
mod mmap;
mod page;
mod rename;
mod space;
mod sync;
mod truncate;
mod write;
