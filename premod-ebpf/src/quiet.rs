//! Inodes of which nothing has to be announced for now, so that a touch needs no look-up: the hot path.
//!
//! Two kinds of inodes are quiet. One whose dirty period was announced is quiet for as long as some page is
//! dirty; whoever reads the slot looks at the mapping too. One that is outside of the traced subtrees is quiet
//! for as long as the verdict holds.
//!
//! Each inode has one slot ([`Slots`]). Whoever changes the inode's word
//! or verdict empties the slot *after* that ([`forget`]). Whoever fills it looks at word and verdict again
//! *after* that, and empties it if they have changed ([`learn`]). So a slot is never left filled that should not
//! be, whichever of the two is faster.
//!
//! An inode that is outside as all of its directory is has no word and no verdict to look at. Whoever fills its slot claims
//! it *before* he looks where the inode is ([`claim`]), and whoever changes that spoils the claim *after* it ([`spoil`]).

use core::ptr::{read_volatile, write_volatile};

use premod_common::inode::TrackedInode;

use crate::{
    atomic::{compare_and_swap, exchange, or},
    kernel::Inode,
    maps::SCOPE_EPOCH,
    slots::Slots,
};

const SLOTS: usize = 4096;

/// What a slot holds in place of an address while somebody fills it.
const BUSY: u64 = 1;

/// Added to that: in vain. Added to an address, which is a multiple of 4, it makes one that is nobody's.
const SPOILT: u64 = 2;

/// Added to an address: announced. Inodes are aligned, so that it is no other inode's.
const ANNOUNCED: u64 = 1;

#[repr(C, align(32))]
struct Slot {
    /// Address of the inode that is outside, or [`ANNOUNCED`]; 0 if there is none.
    inode: u64,
    /// The epoch in which an inode outside was found.
    epoch: u64,
    /// Address of the mount that it was found through.
    mount: u64,
}

#[unsafe(no_mangle)]
static QUIET: Slots<Slot, SLOTS> = Slots::new(
    [const {
        Slot {
            inode: 0,
            epoch: 0,
            mount: 0,
        }
    }; SLOTS],
);

/// Why an inode is quiet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// Its dirty period was announced, and a page is dirty.
    Announced,
    /// It is outside of the traced subtrees.
    Outside,
    /// It is not, or nobody knows.
    No,
}

/// Whether the inode is quiet. `mount` is that of its place; it is asked for if it matters.
#[inline(always)]
pub(crate) fn look(inode: Inode, mount: impl FnOnce() -> u64) -> Quiet {
    let slot = QUIET.of(inode.address());
    // SAFETY: a slot of ours.
    unsafe {
        let found = read_volatile(&raw const (*slot).inode);
        // Announced is announced, by whatever mount and in whatever epoch.
        if found == inode.address() + ANNOUNCED {
            return if inode.is_dirty() {
                Quiet::Announced
            } else {
                Quiet::No
            };
        }
        if found != inode.address() {
            return Quiet::No;
        }
        let mount = mount();
        let found = read_volatile(&raw const (*slot).mount);
        let epoch = read_volatile(&raw const (*slot).epoch);
        // Without a mount, the verdict found through any mount is the best there is. The address is read again
        // after the rest, which then belongs to it.
        if (mount == 0 || mount == found)
            && epoch == SCOPE_EPOCH.get()
            && read_volatile(&raw const (*slot).inode) == inode.address()
        {
            Quiet::Outside
        } else {
            Quiet::No
        }
    }
}

/// Notes that the inode at this address is quiet, as its entry says, unless the entry has changed since it was read. If it is
/// because it is outside: through which mount, and in which epoch.
///
/// # Safety
/// `entry` comes from the inode map.
#[inline(always)]
pub(crate) unsafe fn learn(
    inode: u64,
    outside: Option<(u64, u64)>,
    entry: *mut TrackedInode,
    seen: (u64, u64),
) {
    if !claim(inode) {
        return;
    }
    // SAFETY: the caller vouches for `entry`; all fields are aligned u64. What follows the filling, which is a full
    // barrier, is read after it was seen by everybody.
    unsafe {
        match outside {
            Some((mount, epoch)) => fill_outside(inode, mount, epoch),
            None => fill(inode, inode + ANNOUNCED),
        }
        let word = read_volatile(&raw const (*entry).word);
        let verdict = read_volatile(&raw const (*entry).verdict);
        if (word, verdict) != seen {
            forget(inode);
        }
    }
}

/// Claims the inode's slot, unless somebody else has; a full barrier. Whoever claims a slot has to fill it.
#[inline(always)]
pub(crate) fn claim(inode: u64) -> bool {
    let slot = QUIET.of(inode);
    // SAFETY: a slot of ours.
    unsafe {
        let before = read_volatile(&raw const (*slot).inode);
        before | SPOILT != BUSY | SPOILT && compare_and_swap(&raw mut (*slot).inode, before, BUSY)
    }
}

/// Fills the inode's slot, which was claimed, if the claim was not spoilt: it is outside.
#[inline(always)]
pub(crate) fn fill_outside(inode: u64, mount: u64, epoch: u64) {
    let slot = QUIET.of(inode);
    // SAFETY: a slot of ours, which nobody else fills.
    unsafe {
        write_volatile(&raw mut (*slot).epoch, epoch);
        write_volatile(&raw mut (*slot).mount, mount);
    }
    fill(inode, inode);
}

/// Leaves the inode's slot, which was claimed, empty.
#[inline(always)]
pub(crate) fn fill_not(inode: u64) {
    fill(inode, 0);
}

#[inline(always)]
fn fill(inode: u64, with: u64) {
    let slot = QUIET.of(inode);
    // SAFETY: a slot of ours.
    unsafe {
        if !compare_and_swap(&raw mut (*slot).inode, BUSY, with) {
            exchange(&raw mut (*slot).inode, 0);
        }
    }
}

/// Where the inode at this address is has changed: its slot is empty, and stays so if it has been claimed.
#[inline(always)]
pub(crate) fn spoil(inode: u64) {
    let slot = QUIET.of(inode);
    // SAFETY: a slot of ours. Whatever is in it, and whoever else's it is.
    unsafe { or(&raw mut (*slot).inode, SPOILT) };
}

/// The inode at this address is not quiet any more, or nobody knows.
#[inline(always)]
pub(crate) fn forget(inode: u64) {
    let slot = QUIET.of(inode);
    // SAFETY: a slot of ours.
    unsafe {
        let found = read_volatile(&raw const (*slot).inode);
        if found == inode || found == inode + ANNOUNCED {
            compare_and_swap(&raw mut (*slot).inode, found, 0);
        }
    }
}
