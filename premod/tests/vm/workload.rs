//! Things that programs under trace do.

use std::{fs::File, os::fd::AsFd, path::Path, process::ExitCode, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags};

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Memory from mmap.
pub(crate) struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns its memory, which any thread may use; nothing of it belongs to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// A shared, writable mapping of a file.
    pub(crate) fn shared(file: &File, length: usize) -> Self {
        Self::of(file, length, MapFlags::SHARED)
    }

    /// A private, writable mapping of a file.
    pub(crate) fn private(file: &File, length: usize) -> Self {
        Self::of(file, length, MapFlags::PRIVATE)
    }

    fn of(file: &File, length: usize, flags: MapFlags) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                flags,
                file.as_fd(),
                0,
            )
        };
        Self::from(address.expect("a mapping"), length)
    }

    /// Memory aligned to a page, as direct I/O wants it.
    pub(crate) fn aligned(length: usize) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE)
        };
        Self::from(address.expect("memory"), length)
    }

    fn from(address: *mut core::ffi::c_void, length: usize) -> Self {
        Self {
            address: NonNull::new(address.cast()).expect("not null"),
            length,
        }
    }

    /// Stores one byte.
    pub(crate) fn store(&mut self, offset: usize, value: u8) {
        assert!(offset < self.length);
        // SAFETY: inside of the mapping; volatile, because the kernel is watching.
        unsafe { self.address.add(offset).write_volatile(value) };
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable and lives as long as `self`; nobody else stores to it here.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nothing borrows from it any more.
        let _ = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.length) };
    }
}

/// Whether `word` names a program of this file.
pub(crate) fn is_known(word: &str) -> bool {
    matches!(word, "demo-mmap" | "create-files")
}

/// Acts as a program under trace.
pub(crate) fn run(word: &str, arguments: &[String]) -> ExitCode {
    match (word, arguments) {
        ("demo-mmap", [file]) => demo_mmap(Path::new(file)),
        ("create-files", [directory, prefix, count]) => {
            create_files(
                Path::new(directory),
                prefix,
                count.parse().expect("a number"),
            );
        }
        _ => {
            eprintln!("premod-vm-test: wrong arguments for {word}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Maps a file, stores, fsyncs, and stores again: two dirty periods, and no write call in the second.
fn demo_mmap(path: &Path) {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .expect("the file can be opened");
    file.set_len(8192).expect("ftruncate");
    file.sync_all().expect("fsync");
    let mut mapping = Mapping::shared(&file, 8192);
    mapping.store(0, b'1');
    file.sync_all().expect("fsync");
    mapping.store(4096, b'2');
}

/// Creates files and writes to each, as fast as it can.
fn create_files(directory: &Path, prefix: &str, count: u32) {
    for number in 0..count {
        std::fs::write(directory.join(format!("{prefix}{number}")), "x").expect("a new file");
    }
}
