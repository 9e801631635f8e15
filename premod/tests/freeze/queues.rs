//! Writes that are submitted and completed: io_uring and aio, one at a time.

use std::{fs::File, io, mem::zeroed, os::fd::AsRawFd, ptr::null_mut};

use io_uring::{IoUring, opcode, types};

use crate::region::{Aligned, BLOCK};

/// A ring.
pub(crate) struct Uring(IoUring);

impl Uring {
    pub(crate) fn new() -> Self {
        Self(IoUring::new(1).expect("io_uring_setup"))
    }

    /// Writes a block. A request may fail with EAGAIN, or on 6.1 with ECANCELED, once for each freeze, and is
    /// then submitted again, after `again` was called.
    pub(crate) fn write(
        &mut self,
        file: &File,
        block: &Aligned<BLOCK>,
        offset: u64,
        mut again: impl FnMut(),
    ) -> io::Result<usize> {
        loop {
            let fd = types::Fd(file.as_raw_fd());
            let entry = opcode::Write::new(fd, block.0.as_ptr(), BLOCK as u32)
                .offset(offset)
                .build();
            // SAFETY: the file and the block live until the completion below.
            unsafe { self.0.submission().push(&entry).expect("room in the queue") };
            match self.wait()? {
                written if written >= 0 => return Ok(written as usize),
                error if [-libc::EAGAIN, -libc::ECANCELED].contains(&error) => again(),
                error => return Err(io::Error::from_raw_os_error(-error)),
            }
        }
    }

    /// Submits, and waits for the completion. Whoever was stopped meanwhile has to wait once more: the
    /// kernel does not restart this call (signal(7)).
    fn wait(&mut self) -> io::Result<i32> {
        loop {
            match self.0.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => drop(result?),
            }
            if let Some(entry) = self.0.completion().next() {
                return Ok(entry.result());
            }
        }
    }
}

/// A context of aio.
pub(crate) struct Aio(u64);

impl Aio {
    pub(crate) fn new() -> Self {
        let mut context = 0_u64;
        // SAFETY: io_setup writes the context.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) };
        assert_eq!(result, 0, "io_setup: {}", io::Error::last_os_error());
        Self(context)
    }

    /// Writes a block.
    pub(crate) fn write(
        &self,
        file: &File,
        block: &Aligned<BLOCK>,
        offset: u64,
    ) -> io::Result<usize> {
        const IOCB_CMD_PWRITE: u16 = 1;
        // SAFETY: all zeroes is a valid iocb.
        let mut control: libc::iocb = unsafe { zeroed() };
        control.aio_lio_opcode = IOCB_CMD_PWRITE;
        control.aio_fildes = file.as_raw_fd() as u32;
        control.aio_buf = block.0.as_ptr() as u64;
        control.aio_nbytes = BLOCK as u64;
        control.aio_offset = offset as i64;
        let mut list = [&raw mut control];
        // SAFETY: the list, the control block and the data live until the completion below.
        let submitted = unsafe { libc::syscall(libc::SYS_io_submit, self.0, 1, list.as_mut_ptr()) };
        if submitted < 0 {
            return Err(io::Error::last_os_error());
        }
        // Data, object, result, further result.
        let mut event = [0_u64; 4];
        let none = null_mut::<libc::timespec>();
        loop {
            let room = event.as_mut_ptr();
            // SAFETY: room for one event.
            let result = unsafe { libc::syscall(libc::SYS_io_getevents, self.0, 1, 1, room, none) };
            match result {
                1 => break,
                0 => {}
                _ => {
                    let error = io::Error::last_os_error();
                    assert_eq!(error.kind(), io::ErrorKind::Interrupted, "io_getevents");
                }
            }
        }
        match event[2].cast_signed() {
            written if written >= 0 => Ok(written as usize),
            error => Err(io::Error::from_raw_os_error(-error as i32)),
        }
    }
}
