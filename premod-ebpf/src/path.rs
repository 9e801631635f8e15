//! The path of a file, as the kernel sees it at this moment: names from the leaf to the root of the
//! mount namespace, across mount points.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use premod_common::event::{FLAG_DELETED, FLAG_PATH_CUT, FLAG_PATH_IN_FS, NAME_SPACE, NAMES_MAX};

use crate::{
    kernel::{Inode, Place, load, read, read_u32},
    maps::fact,
    scratch::{Scratch, Walk, walk_up},
};

const UNFINISHED: u64 = 0;
/// Arrived at the root of the mount namespace.
const AT_ROOT: u64 = 1;
/// Arrived at the root of a filesystem without knowing where it is mounted.
const AT_FILESYSTEM_ROOT: u64 = 2;

/// Writes the components into `scratch` and returns the `FLAG_…` bits that describe them.
///
/// # Safety
/// `scratch` is a taken slot.
#[inline(always)]
pub(crate) unsafe fn write_names(scratch: *mut Scratch, inode: Inode, place: Place) -> u8 {
    // A file opened through overlayfs has the names that it has there. Those of its own filesystem are the
    // ones that go with its inode and device.
    let named = place.names(inode);
    let (dentry, mut mount) = if named {
        (place.dentry, place.mount)
    } else {
        (inode.some_dentry(), 0)
    };
    let mut mount_root = 0;
    if mount != 0 && is_in_a_namespace(mount) {
        mount_root = read(mount + u64::from(fact!(vfsmount_mnt_root)));
    } else {
        mount = 0;
    }
    // SAFETY: the caller vouches for `scratch`.
    unsafe {
        (*scratch).walk = Walk {
            dentry,
            mount,
            mount_root,
            length: 0,
            alias: 0,
            outcome: UNFINISHED,
        };
    }
    if dentry == 0 {
        return FLAG_DELETED | FLAG_PATH_IN_FS;
    }
    let deleted = if named {
        place.is_deleted()
    } else {
        is_deleted(dentry)
    };
    if named {
        // SAFETY: the slot is taken, and the hook's dentry has kept its type.
        unsafe { walk_typed(scratch, place.dentry as *const u8, mount_root) };
    }
    // SAFETY: the slot is taken.
    let outcome = unsafe {
        walk_up(scratch, step);
        (*scratch).walk.outcome
    };
    let flags = match outcome {
        AT_ROOT => 0,
        AT_FILESYSTEM_ROOT => FLAG_PATH_IN_FS,
        _ => FLAG_PATH_CUT,
    };
    if deleted { flags | FLAG_DELETED } else { flags }
}

/// As [`Place::is_deleted`], for a dentry without a type.
#[inline(always)]
fn is_deleted(dentry: u64) -> bool {
    read(dentry + u64::from(fact!(dentry_d_hash_pprev))) == 0
        && read(dentry + u64::from(fact!(dentry_d_parent))) != dentry
}

/// How many components are walked by [`walk_typed`].
const TYPED: u32 = 8;

/// The same as [`step`], a few times, up to the mount's root at most: while the verifier still knows the dentry's
/// type, loads cost a tenth. Whatever is not plain sailing is left to [`step`].
///
/// # Safety
/// `scratch` is a taken slot, and `dentry` a `struct dentry` that the verifier knows.
#[inline(always)]
unsafe fn walk_typed(scratch: *mut Scratch, mut dentry: *const u8, mount_root: u64) {
    let mut length = 0u64;
    for _ in 0..TYPED {
        if dentry as u64 == mount_root {
            break;
        }
        // SAFETY: the offsets are those of members of struct dentry. `length` and `size` are checked:
        // NAME_SPACE bytes from there on are inside of `names`.
        unsafe {
            let before: u32 = load!(dentry, dentry_d_seq);
            let parent: *const u8 = load!(dentry, dentry_d_parent);
            let name: u64 = load!(dentry, dentry_d_name_name);
            let size: u32 = load!(dentry, dentry_d_name_len);
            // Its NUL byte is read too.
            let size = size.wrapping_add(1);
            if parent == dentry
                || before & 1 != 0
                || length > (NAMES_MAX - NAME_SPACE) as u64
                || size > NAME_SPACE as u32
            {
                break;
            }
            let names = (&raw mut (*scratch).names).cast::<u8>();
            let read = bpf_probe_read_kernel(
                names.add(length as usize).cast(),
                size,
                name as *const c_void,
            );
            if read != 0 || before != load!(dentry, dentry_d_seq: u32) {
                break;
            }
            length += u64::from(size);
            dentry = parent;
            (*scratch).walk.length = length;
            (*scratch).walk.dentry = dentry as u64;
        }
    }
}

/// Whether a mount is part of a tree that processes see. The kernel has mounts of its own (overlayfs one for
/// each layer), and unmounted ones live on in open files: from those no way leads to a root.
#[inline(always)]
fn is_in_a_namespace(mount: u64) -> bool {
    let namespace = read(mount - u64::from(fact!(mount_mnt)) + u64::from(fact!(mount_mnt_ns)));
    // MNT_NS_INTERNAL is ERR_PTR(-EINVAL).
    namespace != 0 && namespace < u64::MAX - MAX_ERRNO
}

/// `MAX_ERRNO` of include/linux/err.h.
const MAX_ERRNO: u64 = 4095;

/// One step: a component, or from the root of a mount to its mount point. Returns 1 to stop.
unsafe extern "C" fn step(_index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: `walk_up` passes on the address of a variable that holds the slot.
    let scratch = unsafe { *context };
    // SAFETY: the slot is taken for as long as the loop runs.
    let walk = unsafe { &mut (*scratch).walk };
    if walk.dentry == walk.mount_root {
        let mount = walk.mount - u64::from(fact!(mount_mnt));
        let parent = read(mount + u64::from(fact!(mount_mnt_parent)));
        if parent == mount || parent == 0 {
            walk.outcome = AT_ROOT;
            return 1;
        }
        walk.dentry = read(mount + u64::from(fact!(mount_mnt_mountpoint)));
        walk.mount = parent + u64::from(fact!(mount_mnt));
        walk.mount_root = read(walk.mount + u64::from(fact!(vfsmount_mnt_root)));
        return 0;
    }
    let sequence = walk.dentry + u64::from(fact!(dentry_d_seq));
    let before = read_u32(sequence);
    let parent = read(walk.dentry + u64::from(fact!(dentry_d_parent)));
    if parent == walk.dentry || parent == 0 {
        walk.outcome = AT_FILESYSTEM_ROOT;
        return 1;
    }
    let name = read(walk.dentry + u64::from(fact!(dentry_d_name_name)));
    // Checked after the other loads: 6.1's verifier forgets the bound of what has to leave its register.
    let length = walk.length;
    if length > (NAMES_MAX - NAME_SPACE) as u64 {
        return 1;
    }
    // SAFETY: `length` was checked: NAME_SPACE bytes from there on are inside of `names`.
    let written = unsafe {
        let names = (&raw mut (*scratch).names).cast::<u8>();
        bpf_probe_read_kernel_str(
            names.add(length as usize).cast(),
            NAME_SPACE as u32,
            name as *const c_void,
        )
    };
    if written <= 0 || written > NAME_SPACE as i64 {
        return 1;
    }
    // A rename writes name and parent while the number is odd, a short name byte by byte in its place. What
    // was read in the meantime may be a name that never was: the next step reads it again. On x86-64 loads
    // stay in their order.
    if before & 1 != 0 || before != read_u32(sequence) {
        return 0;
    }
    // SAFETY: as at the top; reborrowed, because `names` was borrowed in between.
    unsafe {
        (*scratch).walk.length = length + written as u64;
        (*scratch).walk.dentry = parent;
    }
    0
}
