//! The pages of a buffered write, one by one.
//!
//! A write has been announced by the time it comes here; but its file may have become clean since, because
//! the writer slept after `generic_write_checks`, or because the pages that it has copied so far have been
//! written back. These hooks come when the filesystem has locked a page, to change it.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use premod_common::event::Op;

use crate::{
    emit::Change,
    kernel::{Inode, load},
    maps::fact,
    touch::touch_page,
};

/// `___GFP_WRITE`, the same from 6.1 to 7.x.
const GFP_WRITE: u32 = 1 << 12;

/// `folio_wait_stable(struct folio *folio)`, 6.1 to 7.x: a folio that is in memory already, and that a write
/// is about to change (`FGP_STABLE`), on ext4 and xfs, on 6.18 and 7.3 also on btrfs.
///
/// Some filesystems' `page_mkwrite` call it too, before the page can be stored to.
#[fentry(function = "folio_wait_stable")]
fn folio_wait_stable(ctx: FEntryContext) -> i32 {
    locked(ctx.arg(0));
    0
}

/// The same at its exit. Where the disk wants stable pages the function waits for writeback, and the file may have
/// become clean meanwhile. Elsewhere it does nothing, and an exit costs more than an entry: it is attached only if
/// there is such a disk.
#[fexit(function = "folio_wait_stable")]
fn folio_is_stable(ctx: FExitContext) -> i32 {
    locked(ctx.arg(0));
    0
}

#[inline(always)]
fn locked(folio: *const u8) {
    // SAFETY: the offset is that of mapping in struct folio.
    changing(unsafe { load!(folio, folio_mapping) }, Op::Unknown);
}

/// `filemap_add_folio(struct address_space *mapping, struct folio *folio, pgoff_t index, gfp_t gfp)`, 6.1 to
/// 7.x: a folio that was not in memory. What is allocated for a write has `__GFP_WRITE`.
#[fexit(function = "filemap_add_folio")]
fn filemap_add_folio(ctx: FExitContext) -> i32 {
    found(ctx.arg(0), ctx.arg(3));
    0
}

/// `pagecache_get_page(struct address_space *mapping, pgoff_t index, fgf_t fgp_flags, gfp_t gfp)`, 6.1 to
/// 7.x: how btrfs comes to its pages on 6.1 and 6.12, in memory or not.
#[fexit(function = "pagecache_get_page")]
fn pagecache_get_page(ctx: FExitContext) -> i32 {
    found(ctx.arg(0), ctx.arg(3));
    0
}

/// A page of the mapping was found or made, with these flags of its allocation.
#[inline(always)]
fn found(mapping: *const u8, purpose: u32) {
    if purpose & GFP_WRITE != 0 {
        changing(mapping, Op::Write);
    }
}

#[inline(always)]
fn changing(mapping: *const u8, op: Op) {
    if mapping.is_null() {
        return;
    }
    // Dirty, so that there is nothing to announce: the usual case.
    // SAFETY: the offset is that of xa_flags in struct address_space.
    let flags: u32 = unsafe { load!(mapping, address_space_xa_flags) };
    if flags & fact!(mapping_dirty_mark) == 0 {
        changing_clean(mapping, op as u64);
    }
}

/// Out of line, so that the usual way stays short.
#[inline(never)]
fn changing_clean(mapping: *const u8, op: u64) -> i32 {
    // SAFETY: `changing` has seen that there is a mapping.
    let Some(inode) = (unsafe { Inode::of_mapping(mapping) }) else {
        return 0;
    };
    let change = Change {
        op: op as u8,
        unpaged: false,
        range: None,
    };
    touch_page(inode, change);
    0
}
