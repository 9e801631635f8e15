//! premod's BPF programs.
#![no_std]
#![allow(internal_features)]
#![feature(core_intrinsics)]
#![no_main]

use aya_ebpf::{macros::{fentry, map}, maps::Array, programs::FEntryContext};

#[map]
static WORDS: Array<u64> = Array::with_max_entries(1, 0);

#[fentry(function = "do_page_mkwrite")]
fn do_page_mkwrite(_ctx: FEntryContext) -> i32 {
    if let Some(p) = WORDS.get_ptr_mut(0) {
        let word = unsafe { core::sync::atomic::AtomicU64::from_ptr(p) };
        let _ = word;
        unsafe { core::intrinsics::atomic_cxchg::<u64, { core::intrinsics::AtomicOrdering::SeqCst }, { core::intrinsics::AtomicOrdering::SeqCst }>(p, 0, 1) };
    }
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
