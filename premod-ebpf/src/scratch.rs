//! Work space in per-CPU maps.
//!
//! A program can be preempted by another task that runs the same program on the same CPU, so one space
//! per CPU is not enough: each CPU has a few slots, and whoever takes one marks it.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use premod_common::{
    event::{DirectoryRecord, FirstDirtyRecord, NAME_SPACE, NAMES_MAX},
    watched::WatchedName,
};

use crate::{
    atomic::compare_and_swap, directories::Identity, maps::SCRATCH, scope::search::Search,
};

/// Slots per CPU: how deep preemption can nest before an announcement counts as lost.
pub(crate) const SLOTS: u32 = 4;

/// One slot. Each record is followed by its names: together they are what goes to user space.
#[repr(C)]
pub(crate) struct Scratch {
    busy: u64,
    /// Where the file is, as far as the hook knew.
    pub(crate) file: Located,
    /// What its directory's path depends on.
    pub(crate) identity: Identity,
    /// Where a walk stands.
    pub(crate) walk: Walk,
    /// Where the search for a PATH stands.
    pub(crate) search: Search,
    /// A name that is looked up in that search.
    pub(crate) watched: WatchedName,
    /// The record being built.
    pub(crate) record: FirstDirtyRecord,
    /// The file's own name.
    pub(crate) name: [u8; NAME_SPACE],
    /// That of its directory.
    pub(crate) directory: DirectoryRecord,
    /// The components of the directory's path, leaf first, with room for one more than [`NAMES_MAX`] takes.
    pub(crate) directory_names: [u8; NAMES_MAX + NAME_SPACE],
}

/// Where a file is: addresses, 0 where there is none or nobody knows.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Located {
    /// The `struct vfsmount`.
    pub(crate) mount: u64,
    /// Some dentry of the file.
    pub(crate) dentry: u64,
    /// The directory's dentry: only if the hook has read the file's own name.
    pub(crate) parent: u64,
    /// The directory's inode number.
    pub(crate) parent_inode: u64,
    /// Its generation.
    pub(crate) parent_generation: u64,
    /// Not 0: the directory's path may be kept.
    pub(crate) keep: u64,
    pub(crate) superblock: u64,
    /// Where the name of the filesystem's type is.
    pub(crate) type_name: u64,
}

/// Where a walk from a file up to the root stands. Kernel addresses, as plain numbers.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Walk {
    pub(crate) dentry: u64,
    /// The `struct vfsmount`; 0 when the hook did not know it.
    pub(crate) mount: u64,
    pub(crate) mount_root: u64,
    pub(crate) length: u64,
    /// How many mounts it has left.
    pub(crate) mounts: u64,
    pub(crate) outcome: u64,
}

/// Takes a slot. Every taken slot has to be given back with [`release`].
#[inline(always)]
pub(crate) fn take() -> Option<*mut Scratch> {
    for slot in 0..SLOTS {
        let Some(scratch) = SCRATCH.get_ptr_mut(slot) else {
            continue;
        };
        // SAFETY: the pointer comes from the map; `busy` is an aligned u64.
        if unsafe { compare_and_swap(&raw mut (*scratch).busy, 0, 1) } {
            return Some(scratch);
        }
    }
    None
}

/// A step of a walk: returns 1 to stop.
pub(crate) type Step = unsafe extern "C" fn(index: u64, context: *mut *mut Scratch) -> i64;

/// Calls `step` until it says to stop, or `most` times.
///
/// # Safety
/// `scratch` is a taken slot.
#[inline(always)]
pub(crate) unsafe fn walk_up(scratch: *mut Scratch, most: u32, step: Step) {
    // The helper takes a context on the stack only.
    let mut context = scratch;
    // SAFETY: `step` has the signature that bpf_loop calls, and `context` outlives the loop.
    unsafe { bpf_loop(most, step as *mut c_void, (&raw mut context).cast(), 0) };
}

/// Gives a slot back.
///
/// # Safety
/// `scratch` comes from [`take`] and is not used afterwards.
#[inline(always)]
pub(crate) unsafe fn release(scratch: *mut Scratch) {
    // SAFETY: the pointer comes from the map.
    unsafe { core::ptr::write_volatile(&raw mut (*scratch).busy, 0) };
}
