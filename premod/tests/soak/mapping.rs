//! Shared mappings of files that others truncate: a store behind the end of the file is a bus error.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

/// The size of a page on x86-64, the only machine that the VM emulates.
pub(crate) const PAGE: usize = 4096;

/// A bus error has happened, and anonymous memory lies where it did.
static BROKEN: AtomicBool = AtomicBool::new(false);

/// Memory that is a file's.
pub(crate) struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

impl Mapping {
    pub(crate) fn shared(file: &File, length: usize) -> io::Result<Self> {
        Self::of(file.as_fd(), length)
    }

    fn of(file: impl AsFd, length: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Self { address, length })
    }

    /// Stores some bytes; false if one of them lay behind the end of the file. The mapping is of no use
    /// then.
    pub(crate) fn store(&mut self, offset: usize, bytes: &[u8]) -> bool {
        assert!(offset + bytes.len() <= self.length);
        BROKEN.store(false, SeqCst);
        for (number, byte) in bytes.iter().enumerate() {
            // SAFETY: inside of the mapping; volatile, because other processes store there too.
            unsafe { self.address.add(offset + number).write_volatile(*byte) };
        }
        !BROKEN.load(SeqCst)
    }

    /// Lets the kernel store: reads from `source` into the mapping.
    pub(crate) fn read_into(
        &mut self,
        offset: usize,
        length: usize,
        source: &File,
        position: u64,
    ) -> io::Result<usize> {
        assert!(offset + length <= self.length);
        // SAFETY: inside of the mapping, which nothing in this process borrows from.
        let read = unsafe {
            libc::pread(
                source.as_raw_fd(),
                self.address.as_ptr().add(offset).cast(),
                length,
                position as i64,
            )
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Reads a byte of each page; false if one of them lay behind the end of the file.
    pub(crate) fn read(&self) -> bool {
        BROKEN.store(false, SeqCst);
        for offset in (0..self.length).step_by(PAGE) {
            // SAFETY: inside of the mapping; volatile, because other processes store there.
            unsafe { self.address.add(offset).read_volatile() };
        }
        !BROKEN.load(SeqCst)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        // SAFETY: our own mapping; msync changes nothing in it.
        let synced = unsafe {
            rustix::mm::msync(self.address.as_ptr().cast(), self.length, MsyncFlags::SYNC)
        };
        Ok(synced?)
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nothing borrows from it any more.
        let _ = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.length) };
    }
}

/// Makes bus errors harmless: the page is replaced by anonymous memory, and the store goes there.
pub(crate) fn survive_bus_errors() {
    // SAFETY: zeroes are a valid sigaction; the handler calls nothing but mmap, which is a plain system
    // call, and stores to an atomic.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = replace_page as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        let result = libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        assert_eq!(result, 0, "sigaction: {}", io::Error::last_os_error());
    }
}

extern "C" fn replace_page(
    _: libc::c_int,
    information: *mut libc::siginfo_t,
    _: *mut libc::c_void,
) {
    // SAFETY: the kernel passes valid information. The page is one of a Mapping: nothing else in this
    // process is backed by a file that shrinks.
    unsafe {
        let page = (*information).si_addr() as usize & !(PAGE - 1);
        let memory = libc::mmap(
            page as *mut libc::c_void,
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
        if memory == libc::MAP_FAILED {
            libc::_exit(1);
        }
    }
    BROKEN.store(true, SeqCst);
}

/// Memory for direct I/O, aligned to a page.
#[repr(C, align(4096))]
pub(crate) struct Aligned(pub(crate) [u8; 4 * PAGE]);
