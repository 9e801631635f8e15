//! Whether what is in a directory is inside, so that the way up is gone once for each directory and not once for each new
//! file.
//!
//! What a search finds for a file that has one name, in a directory in which no names are watched, depends on the
//! directory alone: the first step goes to the directory, whatever the file's name is, and all that comes after it is the
//! same for its neighbours. (A mount of a file alone leads to no neighbours.) So it is theirs too, for as long as the way up
//! is the same:
//!
//! * Directories are renamed: nothing is used that was found before a rename has begun, and nothing is kept that was found
//!   before it has ended ([`motion`]).
//! * PATHs are moved or followed by user space, symbolic links are switched: each begins another epoch.
//! * Mounts are made, moved or taken away: the kernel counts these in the mount namespace that the whole way is in. The
//!   count also tells a mount from another one that has got its memory. A mount that is in no namespace keeps nothing.
//! * The directory's memory is given to another one: it is forgotten when the inode is freed ([`forget`]), and has another
//!   number or generation if that was not seen.
//! * Other machines rename directories ([`revalidates`]): nothing is kept there, nor below what is mounted there.
//! * The file stands in the scope map itself (it is a PATH, or mounted somewhere inside), has several names, has lost its
//!   name, or was opened without one: it is asked for on its own ([`of`]).
//! * Names in the directory are watched: the file may have one of them. Nothing is kept ([`keep`]). When names begin to be
//!   watched later, that begins another epoch.
//! * The file is moved to another directory while it is searched for: what is found may be that one's. The dentry's
//!   sequence number tells ([`keep`]).
//!
//! What is undecided is not kept.

use core::ptr::{read_volatile, write_volatile};

use premod_common::{
    inode::{InodeAddress, identity},
    watched::{NAMES_BELOW, kind_of},
};

use super::{Whereabouts, holds, motion, name::is_only_name, search::search};
use crate::{
    atomic::{compare_and_swap, exchange},
    directories::revalidates,
    kernel::{peek, peek_u32},
    maps::{SCOPE, fact},
    path::{UNMOUNTED, changes_of_namespace},
    slots::Slots,
};

const SLOTS: usize = 1024;

/// In the place of [`Whereabouts`]: nothing is known of the directory.
pub(super) const UNKNOWN: u64 = u64::MAX;

/// The directory that a file is in, and what its verdict depends on.
#[repr(C)]
#[derive(Clone, Copy)]
struct Directory {
    /// 0 if the file is asked for on its own.
    inode: InodeAddress,
    identity: u64,
    mount: u64,
    /// The mount namespace's count of changes.
    mounts: u64,
    epoch: u64,
    /// How many renames of directories had begun.
    renames: u64,
}

#[repr(C, align(64))]
struct Slot {
    /// Odd while somebody fills the slot; another number each time.
    version: u64,
    directory: Directory,
    /// [`Whereabouts`] as a number.
    found: u64,
}

#[unsafe(no_mangle)]
static PARENTS: Slots<Slot, SLOTS> = Slots::new(
    [const {
        Slot {
            version: 0,
            directory: NONE,
            found: 0,
        }
    }; SLOTS],
);

const NONE: Directory = Directory {
    inode: 0,
    identity: 0,
    mount: 0,
    mounts: 0,
    epoch: 0,
    renames: 0,
};

/// Whether it is worth to ask: the directory that the file seems to be in was outside once.
#[inline(always)]
pub(super) fn may_be_outside(dentry: u64) -> bool {
    let parent = peek(dentry + u64::from(fact!(dentry_d_parent)));
    let directory = peek(parent + u64::from(fact!(dentry_d_inode)));
    let slot = PARENTS.of(directory);
    // SAFETY: a slot of ours.
    unsafe {
        let other = read_volatile(&raw const (*slot).directory.inode) ^ directory;
        other | read_volatile(&raw const (*slot).found) == Whereabouts::OUTSIDE.0
    }
}

/// What is known of the file's directory, if that is all that is to be asked: [`Whereabouts`] as a number, or [`UNKNOWN`].
/// `epoch` was read before.
#[inline(always)]
pub(super) fn ask(inode: InodeAddress, dentry: u64, mount: u64, epoch: u64) -> u64 {
    ask_or_search(inode, dentry, mount, epoch, 0)
}

/// The same, or else as [`search`], and keeps what that finds for the directory.
#[inline(always)]
pub(super) fn find_out(inode: InodeAddress, dentry: u64, mount: u64, epoch: u64) -> u64 {
    ask_or_search(inode, dentry, mount, epoch, 1)
}

/// One function, so that the verifier goes through it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask_or_search(
    inode: InodeAddress,
    dentry: u64,
    mount: u64,
    epoch: u64,
    searches: u64,
) -> u64 {
    let moves = moves_of(dentry);
    let directory = of(inode, dentry, mount, epoch);
    let known = find(&directory);
    if known != UNKNOWN || searches == 0 {
        return known;
    }
    let under_way = directory.renames ^ motion::over();
    let found = search(inode, dentry, mount);
    let doubt = under_way | found & Whereabouts::MOVABLE;
    let found = found & !Whereabouts::MOVABLE;
    if doubt == 0 && holds(found, epoch) {
        keep(&directory, found, dentry, moves);
    }
    found
}

/// How often the dentry has been moved.
#[inline(always)]
fn moves_of(dentry: u64) -> u32 {
    peek_u32(dentry + u64::from(fact!(dentry_d_seq)))
}

/// The directory whose verdict is the file's, too. `epoch` was read before.
#[inline(always)]
fn of(inode: InodeAddress, dentry: u64, mount: u64, epoch: u64) -> Directory {
    if dentry == 0 || mount == 0 {
        return NONE;
    }
    // Before anything else is read of the way.
    let renames = motion::begun();
    let mounts = changes_of_namespace(mount);
    let parent = peek(dentry + u64::from(fact!(dentry_d_parent)));
    if !is_only_name(dentry, inode) || parent == dentry || mounts == UNMOUNTED || mounts == 0 {
        return NONE;
    }
    // SAFETY: a shared reference into a map value; the kernel may change it, but it is a plain number.
    if unsafe { SCOPE.get(inode) }.is_some_and(|root| kind_of(*root) != 0) {
        return NONE;
    }
    // The program runs in a section of RCU, and so does not meet others in the directory's memory, even if the file is
    // moved and the directory removed meanwhile.
    let directory = peek(parent + u64::from(fact!(dentry_d_inode)));
    Directory {
        inode: directory,
        identity: identity(
            peek(directory + u64::from(fact!(inode_i_ino))),
            peek_u32(directory + u64::from(fact!(inode_i_generation))),
        ),
        mount,
        mounts,
        epoch,
        renames,
    }
}

/// What is known of the directory: [`Whereabouts`] as a number, or [`UNKNOWN`].
#[inline(always)]
fn find(directory: &Directory) -> u64 {
    if directory.inode == 0 {
        return UNKNOWN;
    }
    let slot = PARENTS.of(directory.inode);
    // SAFETY: a slot of ours. On x86-64 loads stay in their order: what is read between two looks at the version that
    // agree belongs together.
    unsafe {
        let version = read_volatile(&raw const (*slot).version);
        let kept = read_volatile(&raw const (*slot).directory);
        let found = read_volatile(&raw const (*slot).found);
        // One comparison: of several the verifier would follow each outcome.
        let others = kept.inode ^ directory.inode
            | kept.identity ^ directory.identity
            | kept.mount ^ directory.mount
            | kept.mounts ^ directory.mounts
            | kept.epoch ^ directory.epoch
            | kept.renames ^ directory.renames
            | version & 1
            | version ^ read_volatile(&raw const (*slot).version);
        if others == 0 { found } else { UNKNOWN }
    }
}

/// Notes what a search has found for the file with this dentry, which had been moved so often before `directory` was read.
#[inline(always)]
fn keep(directory: &Directory, found: u64, dentry: u64, moves: u32) {
    if directory.inode == 0 || moves & 1 != 0 || found == Whereabouts::UNDECIDED.0 {
        return;
    }
    // SAFETY: as in `of`.
    if unsafe { SCOPE.get(directory.inode) }.is_some_and(|root| *root & NAMES_BELOW != 0) {
        return;
    }
    if revalidates(peek(dentry + u64::from(fact!(dentry_d_parent)))) {
        return;
    }
    let slot = PARENTS.of(directory.inode);
    // SAFETY: a slot of ours; all fields are aligned u64.
    unsafe {
        let version = read_volatile(&raw const (*slot).version);
        if version & 1 != 0 || !compare_and_swap(&raw mut (*slot).version, version, version + 1) {
            return;
        }
        write_volatile(&raw mut (*slot).directory, *directory);
        write_volatile(&raw mut (*slot).found, found);
        // A full barrier: if the file is still where it was, so is its directory, and whoever frees that sees the slot.
        exchange(&raw mut (*slot).directory.inode, directory.inode);
        if moves_of(dentry) != moves {
            write_volatile(&raw mut (*slot).directory.inode, 0);
        }
        write_volatile(&raw mut (*slot).version, version + 2);
    }
}

/// The inode at this address is being freed.
#[inline(always)]
pub(crate) fn forget(inode: InodeAddress) {
    let slot = PARENTS.of(inode);
    // SAFETY: a slot of ours. If somebody fills it with another directory at the same time, that is forgotten too.
    unsafe {
        let kept = &raw mut (*slot).directory.inode;
        if read_volatile(kept) == inode {
            write_volatile(kept, 0);
        }
    }
}
