//! premod's BPF programs.
//!
//! A hook (`hooks/`) names the inode and says how it is about to change; [`touch`] asks the generation
//! protocol of premod-common whether that has to be announced; [`emit`] builds the record with the path
//! ([`path`]) and puts it into the ring buffer. Everything that reads kernel structures goes through
//! [`kernel`], whose offsets are given by the loader.
//!
//! All programs fail open: nothing here ever denies or delays an operation. What does is in `freeze/`, an object of
//! its own.
#![no_std]
#![no_main]
// BPF has no stable inline assembly yet, and the 64-bit compare-and-swap is to be had no other way.
#![feature(asm_experimental_arch)]

mod arguments;
mod atomic;
mod call;
mod cgroup;
mod directories;
mod emit;
mod facts;
mod hand_over;
mod hooks;
mod kernel;
mod latch;
mod maintenance;
mod maps;
mod path;
mod protocol;
mod quiet;
mod scope;
mod scratch;
mod slots;
mod touch;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
