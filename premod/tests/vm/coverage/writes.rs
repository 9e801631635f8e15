//! The write family.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{IoSlice, Write},
    mem::zeroed,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, OpenOptionsExt},
        },
    },
    path::Path,
    ptr::null_mut,
};

use io_uring::{IoUring, opcode, squeue, types};

use super::{BLOCK, BLOCKS, Change, Target, ways};
use crate::{harness::Place, workload::Mapping};

ways! {
    "write" => write,
    "pwrite" => pwrite,
    "pwritev" => pwritev,
    "write with O_APPEND" => append,
    "write with O_DIRECT" => direct,
    "aio" => aio,
    "aio with O_DIRECT" => aio_direct,
    "io_uring" => uring,
    "io_uring, by a worker thread" => uring_worker,
    "io_uring with O_DIRECT" => uring_direct,
    "write through /proc/PID/fd" => through_proc,
    "write through a bind mount" => through_bind_mount,
    "write by another hard link" => by_another_link,
    "write to an unlinked file" => unlinked,
    "write by a child with the descriptor" => by_a_child,
}

/// Where the n-th change goes.
pub(crate) fn offset(n: u64) -> u64 {
    n % BLOCKS * BLOCK
}

/// What the n-th change writes: never what is there.
pub(crate) fn byte(n: u64) -> u8 {
    b'0' + (n % 64) as u8
}

/// The data file of a way.
pub(crate) fn target(place: &Place) -> Target {
    Target::new(place.file("data"))
}

/// Opens a file once more, with these flags on top of reading and writing.
pub(crate) fn reopen(path: &Path, flags: rustix::fs::OFlags) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .expect("open")
}

fn write(place: &Place) -> Result<Change, String> {
    let target = target(place);
    let mut file = reopen(&target.path, rustix::fs::OFlags::empty());
    Ok(Change::of(target, &["write"], move |n| {
        file.write_all(&[byte(n)]).expect("write");
    }))
}

fn pwrite(place: &Place) -> Result<Change, String> {
    let target = target(place);
    let file = target.same();
    Ok(Change::of(target, &["write"], move |n| {
        file.write_all_at(&[byte(n)], offset(n)).expect("pwrite");
    }))
}

fn pwritev(place: &Place) -> Result<Change, String> {
    let target = target(place);
    let file = target.same();
    Ok(Change::of(target, &["write"], move |n| {
        let bytes = [byte(n)];
        let slices = [IoSlice::new(&bytes), IoSlice::new(&bytes)];
        let written = rustix::io::pwritev(&file, &slices, offset(n));
        assert_eq!(written, Ok(2));
    }))
}

fn append(place: &Place) -> Result<Change, String> {
    let target = target(place);
    let mut file = reopen(&target.path, rustix::fs::OFlags::APPEND);
    Ok(Change::of(target, &["write"], move |n| {
        file.write_all(&[byte(n)]).expect("write");
    }))
}

fn direct(place: &Place) -> Result<Change, String> {
    let target = target(place);
    let file = reopen(&target.path, rustix::fs::OFlags::DIRECT);
    let mut memory = Mapping::aligned(BLOCK as usize);
    Ok(Change::of(target, &["write"], move |n| {
        memory.store(0, byte(n));
        file.write_all_at(memory.bytes(), offset(n))
            .expect("pwrite");
    }))
}

fn aio(place: &Place) -> Result<Change, String> {
    aio_with(place, rustix::fs::OFlags::empty())
}

fn aio_direct(place: &Place) -> Result<Change, String> {
    aio_with(place, rustix::fs::OFlags::DIRECT)
}

fn aio_with(place: &Place, flags: rustix::fs::OFlags) -> Result<Change, String> {
    const IOCB_CMD_PWRITE: u16 = 1;
    let target = target(place);
    let file = reopen(&target.path, flags);
    let mut memory = Mapping::aligned(BLOCK as usize);
    let mut context = 0_u64;
    // SAFETY: io_setup writes the context.
    let result = unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) };
    assert_eq!(result, 0, "io_setup: {}", std::io::Error::last_os_error());
    Ok(Change::of(target, &["write"], move |n| {
        memory.store(0, byte(n));
        // SAFETY: all zeroes is a valid iocb.
        let mut control: libc::iocb = unsafe { zeroed() };
        control.aio_lio_opcode = IOCB_CMD_PWRITE;
        control.aio_fildes = file.as_raw_fd() as u32;
        control.aio_buf = memory.bytes().as_ptr() as u64;
        control.aio_nbytes = BLOCK;
        control.aio_offset = offset(n) as i64;
        let mut list = [&raw mut control];
        // SAFETY: the list, the control block and the memory live until the completion below.
        let result = unsafe { libc::syscall(libc::SYS_io_submit, context, 1, list.as_mut_ptr()) };
        assert_eq!(result, 1, "io_submit: {}", std::io::Error::last_os_error());
        // Data, object, result, further result.
        let mut event = [0_u64; 4];
        let none = null_mut::<libc::timespec>();
        // SAFETY: room for one event.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                context,
                1,
                1,
                event.as_mut_ptr(),
                none,
            )
        };
        assert_eq!((result, event[2]), (1, BLOCK), "io_getevents");
    }))
}

fn uring(place: &Place) -> Result<Change, String> {
    uring_with(place, rustix::fs::OFlags::empty(), squeue::Flags::empty())
}

fn uring_worker(place: &Place) -> Result<Change, String> {
    uring_with(place, rustix::fs::OFlags::empty(), squeue::Flags::ASYNC)
}

fn uring_direct(place: &Place) -> Result<Change, String> {
    uring_with(place, rustix::fs::OFlags::DIRECT, squeue::Flags::empty())
}

fn uring_with(
    place: &Place,
    flags: rustix::fs::OFlags,
    how: squeue::Flags,
) -> Result<Change, String> {
    let target = target(place);
    let file = reopen(&target.path, flags);
    let mut memory = Mapping::aligned(BLOCK as usize);
    let mut ring = IoUring::new(1).expect("io_uring_setup");
    Ok(Change::of(target, &["write"], move |n| {
        memory.store(0, byte(n));
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Write::new(fd, memory.bytes().as_ptr(), BLOCK as u32)
            .offset(offset(n))
            .build()
            .flags(how);
        // SAFETY: the file and the memory live until the completion below.
        unsafe { ring.submission().push(&entry).expect("room in the queue") };
        assert_eq!(complete(&mut ring), Some(BLOCK as i32));
    }))
}

/// Submits, and waits for the one request. Whoever is stopped meanwhile has to wait once more: the kernel does
/// not restart this call (signal(7)).
pub(crate) fn complete(ring: &mut IoUring) -> Option<i32> {
    loop {
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => drop(result.expect("io_uring_enter")),
        }
        if let Some(entry) = ring.completion().next() {
            return Some(entry.result());
        }
    }
}

fn through_proc(place: &Place) -> Result<Change, String> {
    let target = target(place);
    let kept = target.same();
    Ok(Change::of(target, &["write"], move |n| {
        let link = format!("/proc/self/fd/{}", kept.as_raw_fd());
        let file = OpenOptions::new().write(true).open(link).expect("open");
        file.write_all_at(&[byte(n)], offset(n)).expect("pwrite");
    }))
}

fn through_bind_mount(place: &Place) -> Result<Change, String> {
    let mut target = target(place);
    let mounted = place.outside.join("bound");
    fs::create_dir(&mounted).expect("mkdir");
    rustix::mount::mount_bind(&place.directory, &mounted).expect("mount --bind");
    let path = mounted.join("data");
    let file = reopen(&path, rustix::fs::OFlags::empty());
    // The name is the one it was opened by.
    target.path = path;
    Ok(Change::of(target, &["write"], move |n| {
        file.write_all_at(&[byte(n)], offset(n)).expect("pwrite");
    }))
}

fn by_another_link(place: &Place) -> Result<Change, String> {
    let mut target = target(place);
    let other = place.outside.join("data");
    fs::hard_link(&target.path, &other).expect("link");
    let file = reopen(&other, rustix::fs::OFlags::empty());
    target.path = other;
    Ok(Change::of(target, &["write"], move |n| {
        file.write_all_at(&[byte(n)], offset(n)).expect("pwrite");
    }))
}

fn unlinked(place: &Place) -> Result<Change, String> {
    let target = target(place);
    fs::remove_file(&target.path).expect("unlink");
    let file = target.same();
    Ok(Change::of(target, &["write"], move |n| {
        file.write_all_at(&[byte(n)], offset(n)).expect("pwrite");
    }))
}

fn by_a_child(place: &Place) -> Result<Change, String> {
    let target = target(place);
    let file = target.same();
    Ok(Change::of(target, &["write"], move |n| {
        in_a_child(|| file.write_all_at(&[byte(n)], offset(n)).is_ok());
    }))
}

/// Runs `act`, which must be no more than system calls and memory accesses, in a forked child.
pub(crate) fn in_a_child(act: impl FnOnce() -> bool) {
    // SAFETY: the child does nothing that another thread's locks could stop, and ends without returning.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        let status = i32::from(!act());
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "the child failed");
}

/// A path for a system call.
pub(crate) fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL byte")
}
