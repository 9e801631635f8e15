//! The net under the other hooks: pages that become dirty.
//!
//! For a change that was announced this only notes that pages are dirty now. For one that no other hook
//! saw it is a late event.

use aya_ebpf::{
    macros::{btf_tracepoint, kprobe},
    programs::{BtfTracePointContext, ProbeContext},
};
use premod_common::event::Op;

use crate::{
    arguments::{Arguments, pointer},
    emit::Change,
    kernel::{Inode, Place},
    maps::fact,
    touch::dirtied,
};

const UNKNOWN: Change = Change {
    op: Op::Unknown as u8,
    unpaged: false,
    range: None,
};

/// Tracepoint `writeback_dirty_folio(struct folio *folio, struct address_space *mapping)`, 6.1 to 7.x.
///
/// Called by `folio_account_dirtied` before the mapping gets its dirty mark (which `__mark_inode_dirty`
/// comes after), so it can still see whether the mapping was clean.
#[btf_tracepoint(function = "writeback_dirty_folio")]
fn writeback_dirty_folio(ctx: BtfTracePointContext) -> i32 {
    let mapping: *const u8 = ctx.arg(1);
    if mapping.is_null() {
        return 0;
    }
    // SAFETY: the tracepoint's argument, which is not null.
    let Some(inode) = (unsafe { Inode::of_mapping(mapping) }) else {
        return 0;
    };
    dirtied(&ctx, inode, Place::unknown(), UNKNOWN);
    0
}

/// Tracepoint `writeback_mark_inode_dirty(struct inode *inode, int flags)`, 6.1 to 7.x: the beginning of
/// `__mark_inode_dirty`. A program at a tracepoint costs less than one at a function, and some writes come by
/// more than once.
///
/// Filesystems that do their own page accounting (DAX) come by here only. `I_DIRTY_PAGES` has to be the
/// only flag: `mark_inode_dirty`, which every chmod on ext4 calls, passes all flags at once.
#[btf_tracepoint(function = "writeback_mark_inode_dirty")]
fn writeback_mark_inode_dirty(ctx: BtfTracePointContext) -> i32 {
    marked(&ctx);
    0
}

/// The same at the function itself, `__mark_inode_dirty(struct inode *inode, int flags)`: a tracepoint's program can be
/// skipped as one by fentry can.
#[kprobe(function = "__mark_inode_dirty")]
fn kprobe_mark_inode_dirty(ctx: ProbeContext) -> u32 {
    marked(&ctx);
    0
}

#[inline(always)]
fn marked(arguments: &impl Arguments) {
    let flags = arguments.number(1) as u32;
    if flags == fact!(i_dirty_pages) {
        let inode = Inode(pointer!(arguments, 0, type_inode));
        dirtied(arguments, inode, Place::unknown(), UNKNOWN);
    }
}
