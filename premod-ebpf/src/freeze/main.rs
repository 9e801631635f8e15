//! The BPF programs of a freeze: they keep modifiers of the guarded inodes out, and see whoever gets in.
//!
//! Hooks (`calls`, `mappings`) ask [`guard`] whether the inode is guarded and what the switch says. While it
//! is watching, modifiers in flight are noted ([`flight`]) until they have landed; while it is closed they
//! are refused, held or killed ([`keep_out`]). What modifies a guarded inode all the same is seen by the
//! hooks of `seen`, counted, and told. `names` tells who changes a name on the way to a file, `command` knows CMD's
//! descendants, and `users` are not hooks: premod runs them to learn who uses the files.
//!
//! All freezes of a machine share the programs; [`set`] is one freeze.
//!
//! All programs fail open: when the deadline has passed, or premod is gone, everybody passes.
#![no_std]
#![no_main]
// BPF has no stable inline assembly yet.
#![feature(asm_experimental_arch)]

#[path = "../atomic.rs"]
#[expect(dead_code, reason = "tracing needs more of it")]
mod atomic;
#[path = "../call.rs"]
#[expect(dead_code, reason = "tracing needs more of it")]
mod call;
mod calls;
mod command;
#[path = "../facts.rs"]
mod facts;
mod flight;
mod guard;
mod interrupt;
mod keep_out;
#[path = "../kernel.rs"]
#[expect(dead_code, reason = "tracing needs more of it")]
mod kernel;
mod kernel_use;
mod look;
#[path = "../maintenance.rs"]
mod maintenance;
mod mappings;
mod maps;
mod memory;
mod names;
mod running;
mod seen;
mod set;
mod signals;
mod tell;
mod users;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
