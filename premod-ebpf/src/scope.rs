//! Whether an inode lies below one of the PATHs that are traced.
//!
//! The verdict is found by walking up, and kept in the inode's entry together with the mount and the
//! epoch that it holds for. Ancestors are followed beyond the root of a bind mount, because the file is in
//! the subtree by whatever mount it was opened; and from the root of a filesystem to its mount point,
//! because a filesystem mounted below a traced directory belongs to the subtree too. A file with several
//! names is inside if any name that the kernel has in memory is. An excluded directory ends the walk as the top does;
//! but not one that is met beyond a mount: where a file is mounted is the choice of whoever does it.

use core::ptr::{read_volatile, write_volatile};

use premod_common::inode::{ScopeRoot, Scoped, TrackedInode, Verdict};

use crate::{
    atomic::{compare_and_swap, exchange},
    kernel::{Inode, Place, read, untyped},
    maps::{SCOPE, SCOPE_EPOCH, fact, setting},
    quiet,
    scratch::{Scratch, Walk, release, take, walk_up},
};

const UNFINISHED: u64 = 0;
const INSIDE: u64 = 1;
const OUTSIDE: u64 = 2;

/// Whether the inode is traced. `entry` is its entry, where the verdict is kept; null if there is none.
///
/// # Safety
/// `entry` is null or comes from the inode map.
#[inline(always)]
pub(crate) unsafe fn is_inside(entry: *mut TrackedInode, inode: Inode, place: Place) -> bool {
    if setting!(scoped) == 0 {
        return true;
    }
    let epoch = SCOPE_EPOCH.get();
    let mut kept = Verdict::OPEN;
    if !entry.is_null() {
        // SAFETY: the caller vouches for `entry`; the fields are aligned u64.
        unsafe {
            kept = Verdict(read_volatile(&raw const (*entry).verdict));
            if kept.is_of(epoch) {
                let mount = read_volatile(&raw const (*entry).mount);
                // Without a mount, the verdict found through any mount is the best there is.
                let same_mount = mount == place.mount || place.mount == 0;
                // A file that is outside by one name may be inside by another.
                let same_name = kept.inside() || !inode.has_links();
                if same_mount && same_name && read_volatile(&raw const (*entry).verdict) == kept.0 {
                    if !kept.inside() && mount == place.mount {
                        let word = read_volatile(&raw const (*entry).word);
                        quiet::learn(inode.address(), place.mount, false, entry, (word, kept.0));
                    }
                    return kept.inside();
                }
            }
        }
    }
    let inside = find_out(inode, place) != OUTSIDE;
    if !entry.is_null() {
        // SAFETY: as above.
        unsafe {
            if compare_and_swap(&raw mut (*entry).verdict, kept.0, Verdict::BUSY.0) {
                write_volatile(&raw mut (*entry).mount, place.mount);
                write_volatile(&raw mut (*entry).verdict, Verdict::new(epoch, inside).0);
            }
        }
    }
    inside
}

/// Makes the kept verdict of one inode void.
///
/// # Safety
/// `entry` comes from the inode map, and is that of `inode`.
#[inline(always)]
pub(crate) unsafe fn forget_verdict(entry: *mut TrackedInode, inode: Inode) {
    // SAFETY: the caller vouches for `entry`.
    unsafe { exchange(&raw mut (*entry).verdict, Verdict::OPEN.0) };
    quiet::forget(inode.address());
}

/// Makes every kept verdict void.
#[inline(always)]
pub(crate) fn forget_verdicts() {
    SCOPE_EPOCH.increase();
}

/// Finds it out, without a look at what is kept.
#[inline(always)]
fn find_out(inode: Inode, place: Place) -> u64 {
    let dentry = if place.dentry != 0 {
        untyped(place.dentry)
    } else {
        untyped(inode.some_dentry())
    };
    // Other names matter if there are any, and if this is none any more.
    let alias = if inode.has_links() || !place.names(inode) || place.is_deleted() {
        untyped(inode.first_alias())
    } else {
        0
    };
    walk_from(
        untyped(inode.address()),
        dentry,
        untyped(place.mount),
        alias,
    )
}

/// Whether the inode is one of the PATHs, or one of them is met on the way up from its dentry, or from another of its
/// names (`alias`): [`INSIDE`] or [`OUTSIDE`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_from(inode: u64, dentry: u64, mount: u64, alias: u64) -> u64 {
    // Whatever cannot be decided is inside: an event too many is better than one too few.
    // SAFETY: a shared reference into a map value; the kernel may change it, but it is a plain number.
    if dentry == 0 || unsafe { SCOPE.get(inode) }.is_some() {
        return INSIDE;
    }
    let Some(scratch) = take() else {
        return INSIDE;
    };
    // SAFETY: the slot is ours until it is released.
    unsafe {
        (*scratch).walk = Walk {
            dentry,
            mount,
            mount_root: 0,
            length: 0,
            mounts: 0,
            alias,
            outcome: UNFINISHED,
        };
        walk_up(scratch, step);
        let outcome = (*scratch).walk.outcome;
        release(scratch);
        if outcome == OUTSIDE { OUTSIDE } else { INSIDE }
    }
}

/// One step towards the root. Returns 1 to stop.
unsafe extern "C" fn step(_index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: `walk_up` passes on the address of a variable that holds the slot.
    let scratch = unsafe { *context };
    // SAFETY: the slot is taken for as long as the loop runs.
    let walk = unsafe { &mut (*scratch).walk };
    let inode = read(walk.dentry + u64::from(fact!(dentry_d_inode)));
    // SAFETY: as in `walk_from`.
    let root = unsafe { SCOPE.get(inode) }.copied().unwrap_or(0);
    if root == ScopeRoot::Directory as u32 {
        walk.outcome = INSIDE;
        return 1;
    }
    let parent = read(walk.dentry + u64::from(fact!(dentry_d_parent)));
    if is_excluded(root, parent == walk.dentry) && walk.mounts == 0 {
        return try_next_name(walk);
    }
    if parent != walk.dentry && parent != 0 {
        walk.dentry = parent;
        return 0;
    }
    if walk.mount == 0 {
        return at_the_top(walk);
    }
    let mount = walk.mount - u64::from(fact!(mount_mnt));
    let parent = read(mount + u64::from(fact!(mount_mnt_parent)));
    if parent == mount || parent == 0 {
        return at_the_top(walk);
    }
    walk.dentry = read(mount + u64::from(fact!(mount_mnt_mountpoint)));
    walk.mount = parent + u64::from(fact!(mount_mnt));
    walk.mounts += 1;
    0
}

/// Whether a directory with this entry in the scope map leaves out what is below it.
#[inline(always)]
fn is_excluded(root: u32, is_filesystem: bool) -> bool {
    root == ScopeRoot::Excluded as u32
        || root == ScopeRoot::ExcludedFilesystem as u32 && is_filesystem
}

/// Arrived at the top without meeting a root.
#[inline(always)]
fn at_the_top(walk: &mut Walk) -> i64 {
    if setting!(scoped) == Scoped::AllBut as u32 {
        walk.outcome = INSIDE;
        return 1;
    }
    try_next_name(walk)
}

/// By this name the inode is outside: goes on with another, if it has one.
#[inline(always)]
fn try_next_name(walk: &mut Walk) -> i64 {
    if walk.alias == 0 {
        walk.outcome = OUTSIDE;
        return 1;
    }
    walk.dentry = walk.alias - u64::from(fact!(dentry_d_alias));
    walk.mount = 0;
    walk.mounts = 0;
    walk.alias = read(walk.alias + u64::from(fact!(hlist_node_next)));
    0
}
