//! The CMD of a freeze that must not see any change: `check FILE...`.
//!
//! Reads all files twice, 200 ms apart, each time through the page cache, through a mapping and from the
//! disk.

use std::{
    fs::{File, OpenOptions},
    hash::{DefaultHasher, Hasher},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
    process::ExitCode,
    thread,
    time::Duration,
};

use rustix::{
    fs::OFlags,
    mm::{MapFlags, ProtFlags},
};

use crate::region::Aligned;

/// Between the two readings.
const APART: Duration = Duration::from_millis(200);
/// Bytes that are read at a time.
const CHUNK: usize = 32 << 10;

/// One file, open in each way.
struct Seen {
    name: String,
    cached: File,
    direct: File,
}

/// What a file looked like: its size, and a hash for each way to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    size: u64,
    cached: u64,
    mapped: u64,
    direct: u64,
}

pub(crate) fn run(files: &[String]) -> ExitCode {
    let seen: Vec<Seen> = files.iter().map(|file| Seen::open(file)).collect();
    let look = || seen.iter().map(Seen::content).collect::<Vec<_>>();
    let before = look();
    thread::sleep(APART);
    let after = look();
    let mut same = true;
    for (seen, (before, after)) in seen.iter().zip(before.iter().zip(&after)) {
        let agree = before.cached == before.mapped && before.cached == before.direct;
        if before != after || !agree {
            eprintln!("check: {}: {before:?}, then {after:?}", seen.name);
            same = false;
        }
    }
    if same {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Seen {
    fn open(name: &str) -> Self {
        let mut options = OpenOptions::new();
        let cached = options.read(true).open(Path::new(name)).expect("open");
        let direct = options
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(Path::new(name))
            .expect("open with O_DIRECT");
        Self {
            name: name.to_owned(),
            cached,
            direct,
        }
    }

    fn content(&self) -> Content {
        let size = self.cached.metadata().expect("fstat").len();
        Content {
            size,
            cached: read(&self.cached).expect("read"),
            mapped: mapped(&self.cached, size as usize),
            // What is on the disk: pages that are not there yet would be written first, and are looked for
            // by premod.
            direct: read(&self.direct).expect("read with O_DIRECT"),
        }
    }
}

fn read(file: &File) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut buffer = Box::new(Aligned([0; CHUNK]));
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut buffer.0, offset)?;
        hasher.write(&buffer.0[..read]);
        offset += read as u64;
        if read < CHUNK {
            return Ok(hasher.finish());
        }
    }
}

fn mapped(file: &File, size: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    if size == 0 {
        return hasher.finish();
    }
    let nowhere = std::ptr::null_mut();
    let (protection, flags) = (ProtFlags::READ, MapFlags::SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe { rustix::mm::mmap(nowhere, size, protection, flags, file.as_fd(), 0) };
    let address = address.expect("a mapping").cast::<u8>();
    let mut chunk = vec![0; CHUNK];
    for begin in (0..size).step_by(CHUNK) {
        let length = CHUNK.min(size - begin);
        // SAFETY: inside of the mapping. Others may store to it at the same time, which is why it is copied
        // and never borrowed.
        unsafe { address.add(begin).copy_to(chunk.as_mut_ptr(), length) };
        hasher.write(&chunk[..length]);
    }
    // SAFETY: our own mapping, and nothing borrows from it.
    unsafe { rustix::mm::munmap(address.cast(), size) }.expect("munmap");
    hasher.finish()
}
