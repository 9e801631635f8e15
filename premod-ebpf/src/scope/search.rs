//! The way up from a file, by each of its names.
//!
//! Ancestors are followed beyond the root of a bind mount, because the file is in the subtree by whatever mount it was
//! opened; and from the root of a filesystem to its mount point, because a filesystem mounted below a traced directory
//! belongs to the subtree too. A file with several names is inside if any name that the kernel has in memory is.
//!
//! A PATH is a name ([`premod_common::watched`]): what is met under the name of a PATH's last component is inside,
//! whichever inode it is. If another inode than the expected one is met under the name of a component before that, user
//! space has still to look where the PATH leads to now, and until then what is below is undecided.
//!
//! An excluded directory ends the way of a name as the top does; but not one that is met beyond a mount: where a file is
//! mounted is the choice of whoever does it. A file is left out only if all of its names are known.

use core::{
    ffi::c_void,
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use premod_common::{
    event::{NAME_SPACE, SEARCH_MAX},
    inode::{InodeAddress, ScopeRoot, Scoped},
    watched::{NAMES_BELOW, Watched, kind_of},
};

use super::{Whereabouts, name::is_directory_held};
use crate::{
    directories::{DCACHE_OP_REVALIDATE, flags_of},
    kernel::{is_unhashed, namespace_of, read, read_u32},
    maps::{NAMES, SCOPE, fact, setting},
    scratch::{Scratch, release, take, walk_up},
};

/// Where a search stands. Kernel addresses, as plain numbers.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Search {
    /// The file's inode, and how many names it has.
    inode: InodeAddress,
    links: u64,
    /// The next name of the inode to try: address of a dentry's `d_alias`.
    alias: u64,
    /// Where we are; 0 before the next name.
    dentry: u64,
    /// The `struct vfsmount`; 0 when nobody knows it.
    mount: u64,
    /// The dentry from which we have come by its name; 0 if there is none.
    child: u64,
    /// The inode that whoever looks up that name finds.
    child_inode: InodeAddress,
    /// The inode that is seen here: that of the dentry, or that of what is mounted on it.
    seen: InodeAddress,
    /// How many mounts this name's way has left.
    mounts: u64,
    /// Some name has led to a root.
    decided: u64,
    /// Some name leads nobody knows where to.
    unsure: u64,
    /// Some name leads to what is left out, and so many names have been tried: the others may lead anywhere.
    excluded: u64,
    names: u64,
    /// [`DCACHE_OP_REVALIDATE`] if something is mounted on the way where others may change names.
    movable: u64,
    /// [`UNFINISHED`], or [`Whereabouts`] as a number.
    outcome: u64,
}

const UNFINISHED: u64 = u64::MAX;

/// In the place of an inode: what is mounted there in another mount namespace, in which the PATH is not looked up.
const FOREIGN: InodeAddress = 1;

/// Whether the inode is one of the PATHs, or below one of them by the dentry or by another of its names: [`Whereabouts`]
/// as a number, with [`Whereabouts::MOVABLE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn search(inode: u64, dentry: u64, mount: u64) -> u64 {
    // SAFETY: a shared reference into a map value; the kernel may change it, but it is a plain number.
    if unsafe { SCOPE.get(inode) }.is_some_and(|root| kind_of(*root) != 0) {
        return Whereabouts::INSIDE.0;
    }
    let Some(scratch) = take() else {
        return Whereabouts::UNDECIDED.0;
    };
    // SAFETY: the slot is ours until it is released.
    unsafe {
        begin(&mut (*scratch).search, inode, dentry, mount);
        walk_up(scratch, SEARCH_MAX, step);
        let outcome = (*scratch).search.outcome;
        let movable = (*scratch).search.movable;
        release(scratch);
        if outcome == UNFINISHED {
            return Whereabouts::UNDECIDED.0;
        }
        // Without a branch, of which the verifier would follow both ways.
        outcome | movable * (Whereabouts::MOVABLE / u64::from(DCACHE_OP_REVALIDATE))
    }
}

#[inline(always)]
fn begin(search: &mut Search, inode: u64, dentry: u64, mount: u64) {
    let links = read_u32(inode + u64::from(fact!(inode_i_nlink)));
    // It may be about to lose this name, and has one link less already.
    let going = dentry != 0 && is_directory_held(dentry);
    // A name that the file has lost says nothing, as long as it has others.
    let lost = links != 0 && dentry != 0 && is_unhashed(dentry);
    // Other names matter if there are any, and if this is none: overlayfs gives a dentry of its own.
    let named = dentry != 0
        && !going
        && !lost
        && read(dentry + u64::from(fact!(dentry_d_inode))) == inode
        && read(dentry + u64::from(fact!(dentry_d_parent))) != dentry;
    let others = links > 1 || !named;
    *search = Search {
        inode,
        links: links.into(),
        alias: if others {
            read(inode + u64::from(fact!(inode_i_dentry_first)))
        } else {
            0
        },
        dentry: if lost { 0 } else { dentry },
        mount,
        child: 0,
        child_inode: 0,
        seen: 0,
        mounts: 0,
        decided: 0,
        unsure: 0,
        excluded: 0,
        names: 0,
        movable: 0,
        outcome: UNFINISHED,
    };
}

/// One step towards the root. Returns 1 to stop.
unsafe extern "C" fn step(_index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: `walk_up` passes on the address of a variable that holds the slot, which is taken for as long as the loop
    // runs.
    let (scratch, search) = unsafe { (*context, &mut (**context).search) };
    let dentry = search.dentry;
    if dentry == 0 {
        return next_name(search);
    }
    let inode = read(dentry + u64::from(fact!(dentry_d_inode)));
    if search.seen == 0 {
        search.seen = inode;
    }
    let parent = read(dentry + u64::from(fact!(dentry_d_parent)));
    // SAFETY: as in `search`.
    if let Some(root) = unsafe { SCOPE.get(inode) } {
        let root = *root;
        if kind_of(root) == ScopeRoot::Directory as u32 {
            search.outcome = Whereabouts::INSIDE.0;
            return 1;
        }
        if root & NAMES_BELOW != 0 && search.child != 0 {
            let outcome = by_name(scratch, inode);
            if outcome != UNFINISHED {
                search.outcome = outcome;
                return 1;
            }
        }
        if is_excluded(kind_of(root), parent == dentry) && search.mounts == 0 {
            search.decided = 1;
            search.excluded = 1;
            search.dentry = 0;
            return 0;
        }
    }
    if parent != dentry && parent != 0 {
        search.child = dentry;
        search.child_inode = search.seen;
        search.seen = 0;
        search.dentry = parent;
        return 0;
    }
    at_top(search, inode)
}

/// Whether a directory of this kind leaves out what is below it.
#[inline(always)]
fn is_excluded(kind: u32, is_root_of_filesystem: bool) -> bool {
    kind == ScopeRoot::Excluded as u32
        || kind == ScopeRoot::ExcludedFilesystem as u32 && is_root_of_filesystem
}

/// What the name of the child in this directory says: [`UNFINISHED`] if nothing.
///
/// # Safety
/// `scratch` is a taken slot.
#[inline(always)]
fn by_name(scratch: *mut Scratch, directory: InodeAddress) -> u64 {
    // SAFETY: `step` vouches for `scratch`.
    unsafe {
        let child = (*scratch).search.child;
        if is_unhashed(child) {
            return UNFINISHED;
        }
        let name = read(child + u64::from(fact!(dentry_d_name_name)));
        let Some(watched) = look_up(scratch, directory, name) else {
            return UNFINISHED;
        };
        if read_volatile(&raw const watched.flags) & Watched::LAST != 0 {
            return Whereabouts::INSIDE.0;
        }
        let seen = (*scratch).search.child_inode;
        if seen == read_volatile(&raw const watched.inode) || seen == FOREIGN {
            UNFINISHED
        } else {
            Whereabouts::UNDECIDED.0
        }
    }
}

/// What is known of the name at this address, in this directory.
///
/// # Safety
/// `scratch` is a taken slot.
#[inline(always)]
unsafe fn look_up(
    scratch: *mut Scratch,
    directory: InodeAddress,
    name: u64,
) -> Option<&'static Watched> {
    // SAFETY: the caller vouches for `scratch`. All pointers given to helpers lie inside of it. A map value is there for as
    // long as the program runs.
    unsafe {
        let key = &raw mut (*scratch).watched;
        (*key).directory = directory;
        let words = (&raw mut (*key).name).cast::<u64>();
        for word in 0..NAME_SPACE / size_of::<u64>() {
            write_volatile(words.add(word), 0);
        }
        bpf_probe_read_kernel_str(words.cast(), NAME_SPACE as u32, name as *const c_void);
        NAMES.get(&*key)
    }
}

/// Whether the name at this address, in this directory, is one by which a symbolic link is reached: 1 or 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn leads_to_link(directory: InodeAddress, name: u64) -> u64 {
    // SAFETY: as in `search`.
    let watched = unsafe { SCOPE.get(directory) }.is_some_and(|root| *root & NAMES_BELOW != 0);
    if !watched {
        return 0;
    }
    let Some(scratch) = take() else {
        return 1;
    };
    // SAFETY: the slot is ours until it is released.
    unsafe {
        let flags = match look_up(scratch, directory, name) {
            Some(watched) => read_volatile(&raw const watched.flags),
            None => 0,
        };
        release(scratch);
        u64::from(flags & Watched::LINKS != 0)
    }
}

/// At a dentry without a directory: the root of a filesystem, from which it goes on at the mount point, or one that
/// nobody has looked up by a name. Of that nobody knows where it is.
#[inline(always)]
fn at_top(search: &mut Search, inode: InodeAddress) -> i64 {
    let dentry = search.dentry;
    let mount_root = match search.mount {
        0 => 0,
        mount => read(mount + u64::from(fact!(vfsmount_mnt_root))),
    };
    let superblock = read(inode + u64::from(fact!(inode_i_sb)));
    if dentry != mount_root && dentry != read(superblock + u64::from(fact!(super_block_s_root))) {
        search.unsure = 1;
        search.dentry = 0;
        return 0;
    }
    if search.mount != 0 {
        let mount = search.mount - u64::from(fact!(mount_mnt));
        let parent = read(mount + u64::from(fact!(mount_mnt_parent)));
        if parent != mount && parent != 0 {
            if namespace_of(search.mount) != setting!(namespace) {
                search.seen = FOREIGN;
            } else if mount_root != dentry {
                search.seen = read(mount_root + u64::from(fact!(dentry_d_inode)));
            }
            search.child = 0;
            search.dentry = read(mount + u64::from(fact!(mount_mnt_mountpoint)));
            search.movable |= u64::from(flags_of(search.dentry) & DCACHE_OP_REVALIDATE);
            search.mount = parent + u64::from(fact!(mount_mnt));
            search.mounts += 1;
            return 0;
        }
    }
    if setting!(scoped) == Scoped::AllBut as u32 {
        search.outcome = Whereabouts::INSIDE.0;
        return 1;
    }
    search.decided = 1;
    search.dentry = 0;
    0
}

/// Goes on with another name of the inode, if it has one.
#[inline(always)]
fn next_name(search: &mut Search) -> i64 {
    if search.alias == 0 {
        // Its only name decides, even if it was opened without one.
        let sure = search.links == 1
            || search.unsure == 0 && (search.excluded == 0 || search.names >= search.links);
        search.outcome = if search.decided != 0 && sure {
            Whereabouts::OUTSIDE.0
        } else {
            Whereabouts::UNDECIDED.0
        };
        return 1;
    }
    let dentry = search.alias - u64::from(fact!(dentry_d_alias));
    let next = read(search.alias + u64::from(fact!(hlist_node_next)));
    // The list is read without its lock. A dentry that has left it has lost its inode before that.
    if read(dentry + u64::from(fact!(dentry_d_inode))) != search.inode {
        search.outcome = Whereabouts::CHANGED.0;
        return 1;
    }
    search.alias = next;
    search.mount = 0;
    search.child = 0;
    search.seen = 0;
    search.mounts = 0;
    if search.links == 0 || !is_unhashed(dentry) {
        search.dentry = dentry;
        search.names += 1;
    }
    0
}
