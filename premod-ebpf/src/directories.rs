//! Directories whose paths user space has been told, so that the events of their files need not repeat them.
//!
//! A directory's dentry keeps those above it in memory, so its path changes only by a rename of a directory, which
//! begins a new epoch here, or by a change of the mounts, which the kernel counts in the mount namespace (that is what
//! wakes those who poll /proc/self/mountinfo; the count is one for all namespaces, so that none has another's value).
//! Another directory at the same address, or another one in place of one that was removed, has another inode. Where
//! other machines rename directories ([`revalidates`]), nothing is kept.
//!
//! Each directory has one slot ([`Slots`]). As user space remembers the directories
//! it was told last, one that stays in its slot while many others are told is told anew in time.

use core::ptr::{read_volatile, write_volatile};

use premod_common::event::DIRECTORIES_REMEMBERED;

use crate::{
    atomic::compare_and_swap,
    kernel::{read, read_u32},
    latch::Latch,
    maps::fact,
    scratch::Located,
    slots::Slots,
};

const SLOTS: usize = 2048;

/// The epoch of directories' names: a new one begins with the end of each rename.
pub(crate) static RENAMES: Latch = Latch::new();

/// The last token that was given to a directory.
static TOKENS: Latch = Latch::new();

/// What a directory's path depends on.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Identity {
    dentry: u64,
    inode: u64,
    generation: u64,
    mount: u64,
    /// The mount namespace's count of changes.
    mounts: u64,
    renames: u64,
}

impl Identity {
    /// `mounts` is the mount namespace's count of changes, read before anything else of the path is.
    #[inline(always)]
    pub(crate) fn new(file: &Located, mounts: u64) -> Self {
        Self {
            dentry: file.parent,
            inode: file.parent_inode,
            generation: file.parent_generation,
            mount: file.mount,
            mounts,
            renames: RENAMES.get(),
        }
    }
}

#[repr(C, align(64))]
struct Slot {
    /// Odd while somebody fills the slot; another number each time.
    version: u64,
    identity: Identity,
    token: u64,
}

#[unsafe(no_mangle)]
static DIRECTORIES: Slots<Slot, SLOTS> = Slots::new(
    [const {
        Slot {
            version: 0,
            identity: Identity {
                dentry: 0,
                inode: 0,
                generation: 0,
                mount: 0,
                mounts: 0,
                renames: 0,
            },
            token: 0,
        }
    }; SLOTS],
);

/// How many others may be told before a directory is told anew.
const TOLD_ANEW: u64 = DIRECTORIES_REMEMBERED as u64 / 2;

/// The token by which user space knows the directory's path; 0 if it does not, or is about to forget it.
#[inline(always)]
pub(crate) fn find(identity: &Identity) -> u64 {
    let slot = DIRECTORIES.of(identity.dentry);
    // SAFETY: a slot of ours. On x86-64 loads stay in their order: what is read between two looks at the version that
    // agree belongs together.
    unsafe {
        let version = read_volatile(&raw const (*slot).version);
        let kept = read_volatile(&raw const (*slot).identity);
        let token = read_volatile(&raw const (*slot).token);
        let same = kept.dentry == identity.dentry
            && kept.inode == identity.inode
            && kept.generation == identity.generation
            && kept.mount == identity.mount
            && kept.mounts == identity.mounts
            && kept.renames == identity.renames;
        let remembered = TOKENS.get().wrapping_sub(token) < TOLD_ANEW;
        if same
            && remembered
            && version & 1 == 0
            && version == read_volatile(&raw const (*slot).version)
        {
            token
        } else {
            0
        }
    }
}

/// A token that no directory has had.
#[inline(always)]
pub(crate) fn new_token() -> u64 {
    TOKENS.next()
}

/// Notes that user space has been told the directory's path, read when `identity` was true, by this token. Not before
/// it has been: an event with the token has to come after.
#[inline(always)]
pub(crate) fn keep(identity: &Identity, token: u64) {
    let slot = DIRECTORIES.of(identity.dentry);
    // SAFETY: a slot of ours; all fields are aligned u64.
    unsafe {
        let version = read_volatile(&raw const (*slot).version);
        if version & 1 != 0 || !compare_and_swap(&raw mut (*slot).version, version, version + 1) {
            return;
        }
        write_volatile(&raw mut (*slot).identity, *identity);
        write_volatile(&raw mut (*slot).token, token);
        write_volatile(&raw mut (*slot).version, version + 2);
    }
}

/// Whether the filesystem asks, each time that a name is used, whether it still is one: others may rename directories
/// there, and the kernel is not told. The dentry's own mark counts and not the filesystem's operations: ext4 has one for
/// names that are encrypted, and takes the mark from all others. A root keeps it, but nobody renames a root.
#[inline(always)]
pub(crate) fn revalidates(dentry: u64) -> bool {
    flags_of(dentry) & DCACHE_OP_REVALIDATE != 0
        && read(dentry + u64::from(fact!(dentry_d_parent))) != dentry
}

#[inline(always)]
pub(crate) fn flags_of(dentry: u64) -> u32 {
    read_u32(dentry + u64::from(fact!(dentry_d_flags)))
}

/// include/linux/dcache.h, the same in all kernels since 2.6.38.
pub(crate) const DCACHE_OP_REVALIDATE: u32 = 1 << 2;
