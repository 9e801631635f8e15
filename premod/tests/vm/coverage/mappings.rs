//! Stores through shared mappings, by the process itself and by others.

use std::{
    fs::File,
    io,
    io::{IoSlice, IoSliceMut},
    os::{fd::AsRawFd, unix::fs::FileExt},
    ptr::null_mut,
    sync::atomic::{AtomicU8, Ordering},
};

use io_uring::{IoUring, opcode, types};

use super::{BLOCK, BLOCKS, Change, Target, ways, writes};
use crate::{harness::Place, workload::Mapping};

ways! {
    "store through an old mapping" => old_mapping,
    "store through a new mapping" => new_mapping,
    "store after mprotect" => after_mprotect,
    "atomic read-modify-write" => atomic,
    "store by a child with the mapping" => by_a_child,
    "process_vm_writev into a mapping" => process_vm_writev,
    "write to /proc/PID/mem" => proc_mem,
    "ptrace poke into a mapping" => ptrace_poke,
    "read into a mapping" => read,
    "read with O_DIRECT into a mapping" => read_direct,
    "io_uring read into pages pinned before" => pinned,
}

const LENGTH: usize = (BLOCKS * BLOCK) as usize;

/// The data file and an old mapping of it, whose pages have been written and are clean again.
fn mapped(place: &Place) -> (Target, Mapping) {
    let target = writes::target(place);
    let mut mapping = Mapping::shared(&target.file, LENGTH);
    for block in 0..BLOCKS {
        mapping.store(offset(block) + 1, 1);
    }
    target.file.sync_all().expect("fsync");
    (target, mapping)
}

fn offset(n: u64) -> usize {
    writes::offset(n) as usize
}

fn old_mapping(place: &Place) -> Result<Change, String> {
    let (target, mut mapping) = mapped(place);
    Ok(Change::of(target, &["mmap"], move |n| {
        mapping.store(offset(n), writes::byte(n));
    }))
}

fn new_mapping(place: &Place) -> Result<Change, String> {
    let target = writes::target(place);
    let file = target.same();
    Ok(Change::of(target, &["mmap"], move |n| {
        Mapping::shared(&file, LENGTH).store(offset(n), writes::byte(n));
    }))
}

fn after_mprotect(place: &Place) -> Result<Change, String> {
    let (target, mut mapping) = mapped(place);
    mapping.protect(false);
    Ok(Change::of(target, &["mmap"], move |n| {
        mapping.protect(true);
        mapping.store(offset(n), writes::byte(n));
        mapping.protect(false);
    }))
}

fn atomic(place: &Place) -> Result<Change, String> {
    let (target, mapping) = mapped(place);
    Ok(Change::of(target, &["mmap"], move |n| {
        // SAFETY: a byte of the mapping, which nobody else has a reference to.
        let byte = unsafe { AtomicU8::from_ptr(mapping.at(offset(n))) };
        byte.fetch_add(1, Ordering::SeqCst);
    }))
}

fn by_a_child(place: &Place) -> Result<Change, String> {
    let (target, mut mapping) = mapped(place);
    Ok(Change::of(target, &["mmap"], move |n| {
        writes::in_a_child(|| {
            mapping.store(offset(n), writes::byte(n));
            true
        });
    }))
}

fn process_vm_writev(place: &Place) -> Result<Change, String> {
    let (target, mapping) = mapped(place);
    Ok(Change::of(target, &["mmap"], move |n| {
        let byte = [writes::byte(n)];
        let local = IoSlice::new(&byte);
        let remote = libc::iovec {
            iov_base: mapping.at(offset(n)).cast(),
            iov_len: 1,
        };
        let own = std::process::id() as libc::pid_t;
        // SAFETY: IoSlice has the layout of iovec; both live through the call.
        let written = unsafe {
            libc::process_vm_writev(own, (&raw const local).cast(), 1, &raw const remote, 1, 0)
        };
        assert_eq!(written, 1, "{}", io::Error::last_os_error());
    }))
}

fn proc_mem(place: &Place) -> Result<Change, String> {
    let (target, mapping) = mapped(place);
    let memory = File::options().write(true).open("/proc/self/mem");
    let memory = memory.expect("/proc/self/mem");
    Ok(Change::of(target, &["mmap"], move |n| {
        let address = mapping.at(offset(n)) as u64;
        memory
            .write_all_at(&[writes::byte(n)], address)
            .expect("pwrite");
    }))
}

/// A child that waits to be traced, and ends with this value.
struct Tracee(libc::pid_t);

impl Tracee {
    fn start() -> Self {
        // SAFETY: the child makes a system call only, for ever.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork: {}", io::Error::last_os_error());
        if child == 0 {
            loop {
                // SAFETY: no preconditions.
                unsafe { libc::pause() };
            }
        }
        let none = null_mut::<u8>();
        // SAFETY: attaching to our own child.
        let result = unsafe { libc::ptrace(libc::PTRACE_ATTACH, child, none, none) };
        assert_eq!(result, 0, "PTRACE_ATTACH: {}", io::Error::last_os_error());
        // SAFETY: our own child; the status is not wanted.
        let waited = unsafe { libc::waitpid(child, null_mut(), 0) };
        assert_eq!(waited, child);
        Self(child)
    }

    fn poke(&self, address: *mut u8, byte: u8) {
        let word = u64::from_ne_bytes([byte; 8]);
        // SAFETY: the child is stopped; its memory is a copy of ours, with the same shared mappings.
        let result = unsafe { libc::ptrace(libc::PTRACE_POKEDATA, self.0, address, word) };
        assert_eq!(result, 0, "PTRACE_POKEDATA: {}", io::Error::last_os_error());
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // SAFETY: our own child.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, null_mut(), 0);
        }
    }
}

fn ptrace_poke(place: &Place) -> Result<Change, String> {
    let (target, mapping) = mapped(place);
    let tracee = Tracee::start();
    Ok(Change::of(target, &["mmap"], move |n| {
        tracee.poke(mapping.at(offset(n)), writes::byte(n));
    }))
}

/// A file with the bytes that changes write.
fn source(place: &Place) -> Target {
    Target::starting_with(place.file("source"), b'0')
}

fn read(place: &Place) -> Result<Change, String> {
    let source = source(place).file;
    read_from(place, source)
}

fn read_direct(place: &Place) -> Result<Change, String> {
    let source = writes::reopen(&source(place).path, rustix::fs::OFlags::DIRECT);
    read_from(place, source)
}

fn read_from(place: &Place, source: File) -> Result<Change, String> {
    let (target, mapping) = mapped(place);
    Ok(Change::of(target, &["mmap"], move |n| {
        // SAFETY: a page of the mapping, which nobody else has a reference to.
        let page = unsafe { std::slice::from_raw_parts_mut(mapping.at(offset(n)), BLOCK as usize) };
        let read = rustix::io::preadv(&source, &mut [IoSliceMut::new(page)], writes::offset(n));
        assert_eq!(read, Ok(BLOCK as usize));
    }))
}

fn pinned(place: &Place) -> Result<Change, String> {
    let (target, mapping) = mapped(place);
    let source = source(place);
    let mut ring = IoUring::new(1).expect("io_uring_setup");
    let buffer = libc::iovec {
        iov_base: mapping.at(0).cast(),
        iov_len: LENGTH,
    };
    // SAFETY: the mapping lives as long as the ring: both are moved into the closure.
    let registered = unsafe { ring.submitter().register_buffers(&[buffer]) };
    if registered.is_err() {
        return Err(
            "the kernel does not pin a file's pages for long: io_uring refuses buffers in a mapping \
             of a file (6.1), and FOLL_LONGTERM does (6.5 and later)"
                .to_owned(),
        );
    }
    target.file.sync_all().expect("fsync");
    let change = Change::of(target, &["mmap"], move |n| {
        let fd = types::Fd(source.file.as_raw_fd());
        let entry = opcode::ReadFixed::new(fd, mapping.at(offset(n)), BLOCK as u32, 0)
            .offset(writes::offset(n))
            .build();
        // SAFETY: the file and the mapping live until the completion below.
        unsafe { ring.submission().push(&entry).expect("room in the queue") };
        assert_eq!(writes::complete(&mut ring), Some(BLOCK as i32));
    });
    Ok(Change {
        excuse: Some(
            "the pages were pinned while they were dirty (pin_user_pages with FOLL_LONGTERM in \
             io_sqe_buffer_register); from then on the kernel copies into them without a fault, and \
             marks nothing dirty afterwards",
        ),
        ..change
    })
}
