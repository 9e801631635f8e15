//! A page that is not there before it is told to come (userfaultfd): whoever touches it sleeps until then, in the kernel, too.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::mm::{MapFlags, ProtFlags};

/// `struct uffdio_api` of linux/userfaultfd.h.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`
#[repr(C)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_zeropage`
#[repr(C)]
struct ZeroPage {
    start: u64,
    length: u64,
    mode: u64,
    zeroed: i64,
}

const UFFDIO_API: u32 = 0xc018_aa3f;
const UFFDIO_REGISTER: u32 = 0xc020_aa00;
const UFFDIO_ZEROPAGE: u32 = 0xc020_aa04;
const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const PAGE: usize = 4096;

/// The page.
pub(crate) struct Nowhere {
    faults: OwnedFd,
    page: *mut libc::c_void,
}

impl Nowhere {
    pub(crate) fn new() -> Self {
        // SAFETY: a new descriptor.
        let faults = unsafe {
            let faults = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            assert!(faults >= 0, "{}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(faults as i32)
        };
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), PAGE, protection, flags) };
        let page = page.expect("memory");
        let nowhere = Self { faults, page };
        nowhere.ask(
            UFFDIO_API,
            &mut Api {
                api: UFFD_API,
                features: 0,
                ioctls: 0,
            },
        );
        nowhere.ask(
            UFFDIO_REGISTER,
            &mut Register {
                start: page as u64,
                length: PAGE as u64,
                mode: UFFDIO_REGISTER_MODE_MISSING,
                ioctls: 0,
            },
        );
        nowhere
    }

    fn ask<T>(&self, request: u32, argument: &mut T) {
        // SAFETY: each request gets its own structure, which lives through the call.
        let result = unsafe { libc::ioctl(self.faults.as_raw_fd(), request.into(), argument) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// What whoever reads it sleeps at.
    pub(crate) fn bytes(&self) -> &'static [u8] {
        // SAFETY: the page is mapped for ever; whoever has it written to by the kernel reads nothing of it.
        unsafe { std::slice::from_raw_parts(self.page.cast(), PAGE) }
    }

    /// Its address.
    pub(crate) fn address(&self) -> usize {
        self.page as usize
    }

    /// It is there, and whoever has touched it goes on.
    pub(crate) fn come(&self) {
        self.ask(
            UFFDIO_ZEROPAGE,
            &mut ZeroPage {
                start: self.page as u64,
                length: PAGE as u64,
                mode: 0,
                zeroed: 0,
            },
        );
    }
}
