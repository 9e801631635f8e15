//! System calls as programs of 32 bits make them, from one of 64: some have other numbers and structures.

use std::{arch::asm, fs::File, io, os::fd::AsRawFd, ptr::null_mut};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
    process::{WaitOptions, waitpid},
};

/// Memory where 32 bits reach.
pub(super) struct Low<T>(*mut T);

impl<T: Copy> Low<T> {
    pub(super) fn new(value: T) -> Self {
        // SAFETY: new memory at an address of the kernel's choice.
        let memory = unsafe {
            mmap_anonymous(
                null_mut(),
                size_of::<T>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::from_bits_retain(libc::MAP_32BIT as u32),
            )
        };
        let memory = memory.expect("memory").cast::<T>();
        // SAFETY: large enough, and aligned to a page.
        unsafe { memory.write(value) };
        Self(memory)
    }

    pub(super) fn address(&self) -> u32 {
        u32::try_from(self.0 as usize).expect("low memory")
    }

    fn value(&self) -> T {
        // SAFETY: written when it was made; whatever the kernel wrote since is a value, too.
        unsafe { self.0.read() }
    }
}

impl<T> Drop for Low<T> {
    fn drop(&mut self) {
        // SAFETY: our own memory, which nobody has a reference to.
        let _ = unsafe { munmap(self.0.cast(), size_of::<T>()) };
    }
}

/// `int 0x80`.
///
/// # Safety
/// As for any system call. The kernel kills the caller if it does not have those of 32 bits.
unsafe fn call(number: u32, arguments: [u32; 3]) -> i32 {
    let result: i32;
    let [first, second, third] = arguments;
    // SAFETY: the caller vouches for the call; it takes its first argument from rbx, which the compiler keeps, and older
    // kernels clear r8 to r11.
    unsafe {
        asm!(
            "xchg {first:r}, rbx",
            "int 0x80",
            "xchg {first:r}, rbx",
            first = inout(reg) u64::from(first) => _,
            inlateout("eax") number => result,
            in("ecx") second,
            in("edx") third,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    result
}

/// An error if the kernel does not have them.
pub(super) fn are_there() -> Result<(), String> {
    const GETPID: u32 = 20;
    // SAFETY: the child makes one harmless call and ends.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            call(GETPID, [0; 3]);
            libc::_exit(0);
        }
        child
    };
    let child = rustix::process::Pid::from_raw(child).expect("fork");
    let (_, status) = waitpid(Some(child), WaitOptions::empty())
        .expect("waiting")
        .expect("it has ended");
    if status.exit_status() == Some(0) {
        Ok(())
    } else {
        Err("the kernel runs no programs of 32 bits".to_owned())
    }
}

/// Calls an ioctl with a copy of the argument.
pub(super) fn ioctl<T: Copy>(file: &File, request: u32, argument: &mut T) -> io::Result<()> {
    const IOCTL: u32 = 54;
    let low = Low::new(*argument);
    // SAFETY: the argument is the structure that the request asks for, and lives through the call.
    let result = unsafe { call(IOCTL, [file.as_raw_fd() as u32, request, low.address()]) };
    *argument = low.value();
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(())
}
