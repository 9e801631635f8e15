//! Test only: holds a thread in a chosen gap between premod's hooks, so that a test can do on the other
//! CPU what would otherwise have to happen by chance within nanoseconds.
//!
//! The thread spins; BPF cannot sleep in these places. It goes on when the test releases it, or by itself
//! after a limit.
#![no_std]
#![no_main]

mod shared;

use core::{
    ffi::c_void,
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::{
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_loop},
    macros::{btf_tracepoint, fentry, fexit, map},
    maps::Array,
    programs::{BtfTracePointContext, FEntryContext, FExitContext},
};
use shared::{Gap, Order, Report};

/// The most that `bpf_loop` takes: a second or less.
const ROUNDS: u32 = 1 << 23;
/// How often that is done: enough for a victim that has to wait for as long as the kernel's watchdogs bear.
const LOOPS: u32 = 64;

#[map]
static ORDER: Array<Order> = Array::with_max_entries(1, 0);

#[map]
static REPORT: Array<Report> = Array::with_max_entries(1, 0);

/// Holds the victim, if it is meant to be held here.
#[inline(always)]
fn hold(here: Gap) -> i32 {
    let (Some(order), Some(report)) = (ORDER.get_ptr(0), REPORT.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: the pointers come from maps; the helpers have no preconditions; `step` has the signature
    // that bpf_loop calls, and `deadline` outlives the loop.
    unsafe {
        let running = bpf_get_current_pid_tgid() as u32;
        if read_volatile(&raw const (*order).victim) != running
            || read_volatile(&raw const (*order).gap) != here as u32
            || read_volatile(&raw const (*report).entered) != 0
        {
            return 0;
        }
        let passed = read_volatile(&raw const (*report).passed);
        write_volatile(&raw mut (*report).passed, passed + 1);
        if passed < read_volatile(&raw const (*order).passes) {
            return 0;
        }
        let now = bpf_ktime_get_ns();
        let mut deadline = now + read_volatile(&raw const (*order).limit);
        write_volatile(&raw mut (*report).entered, now);
        for _ in 0..LOOPS {
            // If the step has said to stop, it says so again at once.
            bpf_loop(ROUNDS, step as *mut c_void, (&raw mut deadline).cast(), 0);
        }
        write_volatile(&raw mut (*report).left, bpf_ktime_get_ns());
    }
    0
}

/// One look at the clock and at the order. Returns 1 to stop.
unsafe extern "C" fn step(_index: u64, deadline: *mut u64) -> i64 {
    let Some(order) = ORDER.get_ptr(0) else {
        return 1;
    };
    // SAFETY: the pointer comes from the map; `hold` passes on the address of its deadline.
    let over = unsafe {
        read_volatile(&raw const (*order).released) != 0 || bpf_ktime_get_ns() > *deadline
    };
    i64::from(over)
}

/// Notes the time, if the victim has left its gap.
#[inline(always)]
fn witness(place: impl Fn(*mut Report) -> *mut u64) {
    let (Some(order), Some(report)) = (ORDER.get_ptr(0), REPORT.get_ptr_mut(0)) else {
        return;
    };
    // SAFETY: the pointers come from maps; the helpers have no preconditions.
    unsafe {
        let running = bpf_get_current_pid_tgid() as u32;
        let place = place(report);
        if read_volatile(&raw const (*order).victim) == running
            && read_volatile(&raw const (*report).left) != 0
            && read_volatile(place) == 0
        {
            write_volatile(place, bpf_ktime_get_ns());
        }
    }
}

#[fexit(function = "do_page_mkwrite")]
fn faulted(_ctx: FExitContext) -> i32 {
    // SAFETY: only the address is taken.
    witness(|report| unsafe { &raw mut (*report).faulted });
    0
}

#[fexit(function = "security_file_permission")]
fn permitted(_ctx: FExitContext) -> i32 {
    hold(Gap::Permitted)
}

#[fexit(function = "generic_write_checks")]
fn checked(_ctx: FExitContext) -> i32 {
    hold(Gap::Checked)
}

/// ext4, right after the copy. The copy itself cannot be seen: the kernel's lib/ is built without what
/// fentry and kprobes need.
#[fentry(function = "mark_buffer_dirty")]
fn copied(_ctx: FEntryContext) -> i32 {
    copied_page()
}

/// xfs and btrfs.
#[fentry(function = "filemap_dirty_folio")]
fn copied_folio(_ctx: FEntryContext) -> i32 {
    copied_page()
}

#[inline(always)]
fn copied_page() -> i32 {
    // SAFETY: only the address is taken.
    witness(|report| unsafe { &raw mut (*report).copied });
    hold(Gap::Copied)
}

#[fentry(function = "balance_dirty_pages_ratelimited")]
fn between(_ctx: FEntryContext) -> i32 {
    hold(Gap::Between)
}

/// Behind the above, or alone (iomap).
#[fentry(function = "balance_dirty_pages_ratelimited_flags")]
fn between_flags(_ctx: FEntryContext) -> i32 {
    hold(Gap::Between)
}

/// Called by every `page_mkwrite` under test, before it locks the page.
#[fentry(function = "file_update_time")]
fn faulting(_ctx: FEntryContext) -> i32 {
    hold(Gap::Faulting)
}

#[btf_tracepoint(function = "writeback_dirty_folio")]
fn marking(_ctx: BtfTracePointContext) -> i32 {
    hold(Gap::Marking)
}

/// ext4 and xfs.
#[fentry(function = "file_write_and_wait_range")]
fn flushing(_ctx: FEntryContext) -> i32 {
    hold(Gap::Flushing)
}

/// btrfs.
#[fentry(function = "filemap_fdatawrite_range")]
fn flushing_btrfs(_ctx: FEntryContext) -> i32 {
    hold(Gap::Flushing)
}

/// ext4 and xfs.
#[fexit(function = "file_write_and_wait_range")]
fn flushed(_ctx: FExitContext) -> i32 {
    hold(Gap::Flushed)
}

/// btrfs.
#[fexit(function = "filemap_fdatawrite_range")]
fn flushed_btrfs(_ctx: FExitContext) -> i32 {
    hold(Gap::Flushed)
}

/// By `bpf_probe_read_kernel_str`, for the names in the path. From 6.18 on the helpers themselves cannot be
/// hooked.
#[fentry(function = "strncpy_from_kernel_nofault")]
fn announcing(_ctx: FEntryContext) -> i32 {
    hold(Gap::Announcing)
}

#[fexit(function = "security_inode_free")]
fn forgotten(_ctx: FExitContext) -> i32 {
    hold(Gap::Forgotten)
}

/// Within whichever program of a freeze it is that writes to a map first.
#[fentry(function = "htab_map_update_elem")]
fn noting(_ctx: FEntryContext) -> i32 {
    hold(Gap::Noting)
}

#[fentry(function = "d_move")]
fn moving(_ctx: FEntryContext) -> i32 {
    hold(Gap::Moving)
}

#[fexit(function = "d_move")]
fn moved(_ctx: FExitContext) -> i32 {
    hold(Gap::Moved)
}

#[fexit(function = "d_instantiate")]
fn linked(_ctx: FExitContext) -> i32 {
    hold(Gap::Linked)
}

#[fentry(function = "d_delete")]
fn unlinking(_ctx: FEntryContext) -> i32 {
    hold(Gap::Unlinking)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
