//! Things that programs under trace do.

use std::{fs::File, io::Write, os::fd::AsFd, path::Path, process::ExitCode, ptr::NonNull};

use crate::freeze::{in_flight, let_go, library, places, unseen, users};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

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

    /// Where a byte lies.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.length);
        // SAFETY: inside of the mapping.
        unsafe { self.address.add(offset) }.as_ptr()
    }

    /// Makes it read-only, or writable again.
    pub(crate) fn protect(&self, writable: bool) {
        let flags = if writable {
            MprotectFlags::READ | MprotectFlags::WRITE
        } else {
            MprotectFlags::READ
        };
        // SAFETY: our own mapping; nobody holds a reference into it that would be used for writing.
        let result =
            unsafe { rustix::mm::mprotect(self.address.as_ptr().cast(), self.length, flags) };
        result.expect("mprotect");
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

/// A file of four pages that is open for both, and clean.
pub(crate) fn clean_file(path: &Path) -> File {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .expect("a new file");
    file.write_all(&[b'0'; 4 * 4096])
        .expect("room for four pages");
    file.sync_all().expect("fsync");
    file
}

/// Whether `word` names a program of this file.
pub(crate) fn is_known(word: &str) -> bool {
    matches!(
        word,
        "demo-mmap"
            | "create-files"
            | "rename-for-ever"
            | "write-and-die"
            | "store-and-exit"
            | "write-hostile-names"
            | "splice-from-nothing"
            | "write-from-nowhere"
            | "store-beside"
            | "write-as"
            | "write-beside"
            | "lead-an-orphan"
            | "stop-like-su"
            | "in-time-namespace"
            | "freeze-by-library"
    )
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
        ("rename-for-ever", names) => rename_for_ever(names),
        ("write-and-die", [file]) => write_and_die(Path::new(file)),
        ("store-and-exit", [file]) => store_and_exit(Path::new(file)),
        ("write-hostile-names", []) => write_hostile_names(),
        ("splice-from-nothing", [file]) => in_flight::splice_from_nothing(Path::new(file)),
        ("write-from-nowhere", [file]) => in_flight::write_from_nowhere(Path::new(file)),
        ("store-beside", [how, files @ ..]) => users::store_beside(how, files),
        ("write-as", [number, file]) => let_go::write_as(number, Path::new(file)),
        ("write-beside", [how, file, other]) => {
            unseen::write_beside(how, Path::new(file), Path::new(other));
        }
        ("stop-like-su", [file, writer]) => {
            unseen::stop_like_su(Path::new(file), Path::new(writer));
        }
        ("lead-an-orphan", [file, done]) => {
            unseen::lead_an_orphan(Path::new(file), Path::new(done));
        }
        ("freeze-by-library", [file]) => library::freeze_by_library(Path::new(file)),
        ("in-time-namespace", [offsets, program, ..]) => {
            return places::in_time_namespace(offsets, program, &arguments[2..]);
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

/// A task name of 15 bytes that is no UTF-8 and would do things to a terminal.
pub(crate) const HOSTILE_NAME: &[u8; 15] = b"a\nb\x1b[7m\"\\\xff\xc2\x9byz\x7f";

/// Names of files; none is valid in a table as it is.
pub(crate) const HOSTILE_FILES: [&[u8]; 6] = [
    b"new\nline",
    b"\x1b]0;title\x07\x1b[2J",
    b"\xff\xfe\x80",
    "c1 \u{9b}31m".as_bytes(),
    "\u{202e}txt.exe".as_bytes(),
    "zero\u{200b}width\x7f".as_bytes(),
];

fn call_myself_hostile() {
    let mut name = [0; 16];
    name[..15].copy_from_slice(HOSTILE_NAME);
    let name = std::ffi::CStr::from_bytes_until_nul(&name).expect("a NUL at the end");
    rustix::thread::set_name(name).expect("PR_SET_NAME");
}

/// Renames a file from each name to the next, round and round, until it is killed.
fn rename_for_ever(names: &[String]) {
    loop {
        for (from, to) in names.iter().zip(names.iter().cycle().skip(1)) {
            std::fs::rename(from, to).expect("renaming");
        }
    }
}

fn write_and_die(path: &Path) {
    let file = File::options()
        .write(true)
        .open(path)
        .expect("the file can be opened");
    call_myself_hostile();
    rustix::io::write(&file, b"x").expect("writing");
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("SIGKILL");
}

fn store_and_exit(path: &Path) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file can be opened");
    let mut mapping = Mapping::shared(&file, 4096);
    call_myself_hostile();
    mapping.store(0, 1);
    // SAFETY: ends the process; nothing of it is needed any more.
    unsafe { libc::_exit(0) };
}

/// In the current directory.
fn write_hostile_names() {
    use std::os::unix::ffi::OsStrExt;
    call_myself_hostile();
    for name in HOSTILE_FILES {
        std::fs::write(std::ffi::OsStr::from_bytes(name), "x").expect("a new file");
    }
}
