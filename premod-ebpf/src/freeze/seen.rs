//! Modifications that happen although the switch is closed: by whoever was in flight when it closed, or came
//! by a way without a hook that can refuse.
//!
//! Each program hangs twice. The kernel skips a fentry or tracepoint program while a task that it has
//! preempted is inside of it on the same CPU; it skips both only if two tasks were preempted, one in each.
//! What a program sees is told twice, then; user space takes it for one.
//!
//! What makes a page dirty in a fault is seen here, too, before the store. If the program that stops stores was not
//! called, it is stopped here.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry},
    programs::{BtfTracePointContext, FEntryContext},
};
use premod_common::{
    event::Op,
    guard::{Flight, Happening, Phase},
};

use crate::{
    flight::{is_in_flight, take_off},
    guard,
    keep_out::{refuse_store, tell_of_store},
    kernel::{File, load},
    maintenance::moves_data,
    running::Running,
    set::count,
    tell::tell,
};

/// `generic_write_checks(struct kiocb *iocb, struct iov_iter *from)`, 6.1 to 7.x: a write, under the inode
/// lock, right before the copy.
#[fentry(function = "generic_write_checks")]
fn write_seen(ctx: FEntryContext) -> i32 {
    written(ctx.arg(0));
    0
}

/// The same once more.
#[fentry(function = "generic_write_checks")]
fn write_seen_again(ctx: FEntryContext) -> i32 {
    written(ctx.arg(0));
    0
}

#[inline(always)]
fn written(iocb: *const u8) {
    // SAFETY: the offset is that of ki_filp in struct kiocb.
    let file = File(unsafe { load!(iocb, kiocb_ki_filp) });
    touched(file.inode().0, Op::Write);
}

/// Tracepoint `writeback_dirty_folio(struct folio *folio, struct address_space *mapping)`, 6.1 to 7.x: a page
/// becomes dirty.
#[btf_tracepoint(function = "writeback_dirty_folio")]
fn dirty_seen(ctx: BtfTracePointContext) -> i32 {
    dirtied(ctx.arg(1));
    0
}

/// The same once more.
#[btf_tracepoint(function = "writeback_dirty_folio")]
fn dirty_seen_again(ctx: BtfTracePointContext) -> i32 {
    dirtied(ctx.arg(1));
    0
}

#[inline(always)]
fn dirtied(mapping: *const u8) {
    if mapping.is_null() {
        return;
    }
    // SAFETY: the offset is that of host in struct address_space.
    let inode: *const u8 = unsafe { load!(mapping, address_space_host) };
    touched(inode, Op::Unknown);
}

#[inline(always)]
fn touched(inode: *const u8, op: Op) {
    if inode.is_null() {
        return;
    }
    let inode = inode as u64;
    guard::at(inode, |set, phase, now| {
        // A fault makes its page dirty before the store. If that comes, it is told of at the fault's end.
        if !matches!(phase, Phase::Closed) || is_in_flight(set, Flight::Fault) {
            return 0;
        }
        if matches!(op, Op::Unknown) && moves_data(inode) {
            return 0;
        }
        if matches!(op, Op::Unknown) && Running::now().is_in_fault_of_user() {
            let ends = take_off(set, inode, Flight::Fault, now);
            refuse_store(set, inode, now);
            if !ends {
                tell_of_store(set, inode);
            }
        } else {
            count!(set, touches);
            tell(set, inode, Happening::Touched, op, 0);
        }
        0
    });
}
