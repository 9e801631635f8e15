//! The path of a file, as the kernel sees it at this moment: names from the leaf to the root of the
//! mount namespace, across mount points.
//!
//! The file's own name is read each time. The rest is its directory's path, which user space is told once for all
//! files in it ([`crate::directories`]).

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel_str, bpf_ringbuf_output};
use premod_common::event::{
    DirectoryRecord, FLAG_DELETED, FLAG_PATH_CUT, FLAG_PATH_IN_FS, MARK_FOREIGN, MARK_MOUNT_POINT,
    NAME_SPACE, NAMES_MAX, RecordKind, SEARCH_MAX, WALK_MAX,
};

use crate::{
    directories::{self, Identity},
    kernel::{Inode, Place, is_unhashed, load, namespace_of, read, read_u32, untyped},
    maps::{EVENTS, fact, setting},
    scratch::{Located, Scratch, Walk, walk_up},
};

const UNFINISHED: u64 = 0;
/// Arrived at the root of the mount namespace.
const AT_ROOT: u64 = 1;
/// Arrived at the root of a filesystem without knowing where it is mounted.
const AT_FILESYSTEM_ROOT: u64 = 2;

/// Writes down where the file is, and its own name if that can be read cheaply, while the verifier knows the types of
/// the hook's pointers. Returns the `FLAG_…` bits that describe the file.
///
/// # Safety
/// `scratch` is a taken slot.
#[inline(always)]
pub(crate) unsafe fn begin(scratch: *mut Scratch, inode: Inode, place: Place) -> u8 {
    let deleted = inode.links() == 0;
    // A file opened through overlayfs has the names that it has there. Those of its own filesystem are the
    // ones that go with its inode and device.
    let named = place.names(inode);
    // A name that is one no more is told if it was the last.
    let lost = named && !deleted && place.is_lost();
    let (dentry, mount) = if named && !lost {
        (place.dentry, place.mount)
    } else {
        let mount = if lost { place.mount } else { 0 };
        (some_name(untyped(inode.address())), mount)
    };
    let superblock = inode.superblock();
    // SAFETY: the caller vouches for `scratch`, and a hook's dentry has kept its type.
    unsafe {
        (*scratch).file = Located {
            mount,
            dentry,
            parent: 0,
            parent_inode: 0,
            parent_generation: 0,
            keep: 0,
            superblock: superblock.address(),
            type_name: superblock.type_name(),
        };
        (*scratch).record.names_length = 0;
        (*scratch).record.directory = 0;
        if named && !lost && mount != 0 {
            read_name(scratch, place.dentry as *const u8, place.mount as *const u8);
        }
    }
    if deleted { FLAG_DELETED } else { 0 }
}

/// Where [`some_name`] stands.
#[repr(C)]
struct Names {
    /// The next name: address of a dentry's `d_alias`.
    alias: u64,
    /// The inode has names.
    linked: u64,
    /// Some dentry of it.
    found: u64,
}

/// A dentry by whose name the inode is to be found, or if it has no names left, the last one; 0 if there is none in
/// memory.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn some_name(inode: u64) -> u64 {
    let mut names = Names {
        alias: read(inode + u64::from(fact!(inode_i_dentry_first))),
        linked: read_u32(inode + u64::from(fact!(inode_i_nlink))).into(),
        found: 0,
    };
    // SAFETY: `try_name` has the signature that bpf_loop calls, and `names` outlives the loop.
    unsafe {
        bpf_loop(
            SEARCH_MAX,
            try_name as *mut c_void,
            (&raw mut names).cast(),
            0,
        );
    }
    names.found
}

/// One name. Returns 1 to stop.
unsafe extern "C" fn try_name(_index: u64, names: *mut Names) -> i64 {
    // SAFETY: `some_name` passes on the address of a variable of its own.
    let names = unsafe { &mut *names };
    if names.alias == 0 {
        return 1;
    }
    let dentry = names.alias - u64::from(fact!(dentry_d_alias));
    if names.linked == 0 || !is_unhashed(dentry) {
        names.found = dentry;
        return 1;
    }
    names.alias = read(names.alias + u64::from(fact!(hlist_node_next)));
    0
}

/// Reads the file's own name, and which directory it is in. Whatever is not plain sailing is left to [`locate`].
///
/// # Safety
/// `scratch` is a taken slot; the verifier knows `dentry` as a `struct dentry`, and `mount` as a `struct vfsmount`.
#[inline(always)]
unsafe fn read_name(scratch: *mut Scratch, dentry: *const u8, mount: *const u8) {
    // SAFETY: the offsets are those of members of the structures.
    unsafe {
        let before: u32 = load!(dentry, dentry_d_seq);
        let parent: *const u8 = load!(dentry, dentry_d_parent);
        let name: u64 = load!(dentry, dentry_d_name_name);
        let root: u64 = load!(mount, vfsmount_mnt_root);
        if parent == dentry || root == dentry as u64 || before & 1 != 0 {
            return;
        }
        let written = bpf_probe_read_kernel_str(
            (&raw mut (*scratch).name).cast(),
            NAME_SPACE as u32,
            name as *const c_void,
        );
        if written <= 0 || before != load!(dentry, dentry_d_seq: u32) {
            return;
        }
        let directory: *const u8 = load!(parent, dentry_d_inode);
        let directory = Inode(directory);
        (*scratch).file.parent_inode = directory.number();
        (*scratch).file.parent_generation = directory.generation().into();
        (*scratch).file.parent = parent as u64;
        (*scratch).record.names_length = written as u16;
    }
}

/// Gives the record its directory, and tells user space the directory's path if it does not know it; false if there
/// was no room for that.
///
/// # Safety
/// `scratch` is a taken slot on which [`begin`] was called.
#[inline(always)]
pub(crate) unsafe fn locate(scratch: *mut Scratch) -> bool {
    // SAFETY: the caller vouches for `scratch`.
    unsafe {
        let token = find_directory(scratch);
        if token != 0 {
            (*scratch).record.directory = token;
            return true;
        }
        if (*scratch).file.parent == 0 {
            read_own_name(scratch);
            if (*scratch).record.names_length == 0 {
                return without_name(scratch);
            }
        }
        tell_directory(scratch) != 0
    }
}

/// The token of the file's directory, if user space knows it; else 0, and the walk is ready to begin.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_directory(scratch: *mut Scratch) -> u64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: the caller's slot, on which `begin` was called.
    unsafe {
        let file = &raw mut (*scratch).file;
        let changes = match (*file).mount {
            0 => UNMOUNTED,
            mount => changes_of_namespace(mount),
        };
        if changes == UNMOUNTED {
            (*file).mount = 0;
        }
        (*file).keep = 0;
        if changes != UNMOUNTED && changes != 0 && (*file).parent != 0 {
            let directory = Identity::new(&*file, changes);
            (*scratch).identity = directory;
            let token = directories::find(&directory);
            if token != 0 {
                return token;
            }
            (*file).keep = 1;
        }
        (*scratch).walk = Walk {
            dentry: match (*file).parent {
                0 => (*file).dentry,
                parent => parent,
            },
            mount: (*file).mount,
            mount_root: root_of((*file).mount),
            length: 0,
            mounts: 0,
            outcome: UNFINISHED,
        };
    }
    0
}

/// Reads the file's own name, whatever is in the way. The walk is in its directory then.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_own_name(scratch: *mut Scratch) -> u64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: the caller's slot.
    unsafe {
        if (*scratch).file.dentry != 0 {
            walk_up(scratch, WALK_MAX, step_to_name);
        }
    }
    0
}

/// A file of which no name is in memory, or none with a directory.
///
/// # Safety
/// `scratch` is a taken slot.
#[inline(always)]
unsafe fn without_name(scratch: *mut Scratch) -> bool {
    // SAFETY: the caller vouches for `scratch`.
    unsafe {
        let record = &raw mut (*scratch).record;
        (*record).flags |= if (*scratch).file.dentry == 0 {
            FLAG_PATH_IN_FS
        } else {
            FLAG_PATH_CUT
        };
        (*record).filesystem = [0; 16];
        read_text(&raw mut (*record).filesystem, (*scratch).file.type_name);
    }
    true
}

/// Reads the directory's path, puts it into the ring buffer, and gives the file's record its token; 0 if there was no
/// room for it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_directory(scratch: *mut Scratch) -> u64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: the caller's slot; `directory_names.len()` after `directory` bounds the size of the output.
    unsafe {
        let mut marks = 0;
        if is_foreign((*scratch).file.mount) {
            marks |= MARK_FOREIGN;
        }
        if (*scratch).walk.mounts != 0 {
            marks |= MARK_MOUNT_POINT;
        }
        (*scratch).walk.outcome = UNFINISHED;
        walk_up(scratch, WALK_MAX, step);
        let outcome = (*scratch).walk.outcome;
        let length = (*scratch).walk.length.min((NAMES_MAX + NAME_SPACE) as u64);
        let token = directories::new_token();
        let directory = &raw mut (*scratch).directory;
        (*directory).kind = RecordKind::Directory as u16;
        (*directory).marks = marks;
        (*directory).names_length = length as u16;
        (*directory).flags = match outcome {
            AT_ROOT => 0,
            AT_FILESYSTEM_ROOT => FLAG_PATH_IN_FS,
            _ => FLAG_PATH_CUT,
        };
        (*directory).padding = 0;
        (*directory).token = token;
        (*directory).filesystem = [0; 16];
        read_text(&raw mut (*directory).filesystem, (*scratch).file.type_name);
        (*scratch).record.directory = token;
        // It wakes a reader that has read all before it, although the event is still to come: the kernel does not wake
        // one for a record that has others before it which are not read.
        let told = bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            directory.cast(),
            DirectoryRecord::SIZE as u64 + length,
            0,
        );
        if told != 0 {
            return 0;
        }
        if outcome == AT_ROOT
            && (*scratch).file.keep != 0
            && !directories::revalidates((*scratch).file.parent)
        {
            directories::keep(&(*scratch).identity, token);
        }
    }
    1
}

/// # Safety
/// `to` points to 16 bytes of a taken slot.
#[inline(always)]
unsafe fn read_text(to: *mut [u8; 16], from: u64) {
    // SAFETY: the caller vouches for `to`; the helper checks the other address.
    unsafe { bpf_probe_read_kernel_str(to.cast(), 16, from as *const c_void) };
}

/// How often the mounts of the mount's namespace have changed; [`UNMOUNTED`] if it is in none. The kernel has mounts of
/// its own (overlayfs one for each layer), and unmounted ones live on in open files: from those no way leads to a root.
#[inline(always)]
pub(crate) fn changes_of_namespace(mount: u64) -> u64 {
    let namespace = namespace_of(mount);
    // MNT_NS_INTERNAL is ERR_PTR(-EINVAL).
    if namespace == 0 || namespace >= u64::MAX - MAX_ERRNO {
        return UNMOUNTED;
    }
    read(namespace + u64::from(fact!(mnt_namespace_event)))
}

/// Whether the names of mount points above this mount are the choice of others than those who run premod.
#[inline(always)]
fn is_foreign(mount: u64) -> bool {
    mount != 0 && namespace_of(mount) != setting!(namespace)
}

/// The mount is in no namespace.
pub(crate) const UNMOUNTED: u64 = u64::MAX;

/// `MAX_ERRNO` of include/linux/err.h.
const MAX_ERRNO: u64 = 4095;

/// The dentry of the mount's root; 0 for no mount.
#[inline(always)]
fn root_of(mount: u64) -> u64 {
    if mount == 0 {
        0
    } else {
        read(mount + u64::from(fact!(vfsmount_mnt_root)))
    }
}

/// What one step of a walk comes to.
enum Next {
    /// From the root of a mount to its mount point, or the same dentry again.
    Onwards,
    /// There is nothing above.
    Top,
    /// A component: how long it is with its NUL byte, and the directory that it is in.
    Name { length: u64, parent: u64 },
    /// Nothing can be read.
    Unreadable,
}

/// One step: a component, which is written to `place`, or from the root of a mount to its mount point.
///
/// # Safety
/// `scratch` is a taken slot, and [`NAME_SPACE`] bytes at `place` lie inside of it.
#[inline(always)]
unsafe fn climb(scratch: *mut Scratch, place: *mut u8) -> Next {
    // SAFETY: the slot is taken for as long as the loop runs.
    let walk = unsafe { &mut (*scratch).walk };
    if walk.dentry == walk.mount_root {
        let mount = walk.mount - u64::from(fact!(mount_mnt));
        let parent = read(mount + u64::from(fact!(mount_mnt_parent)));
        if parent == mount || parent == 0 {
            walk.outcome = AT_ROOT;
            return Next::Top;
        }
        walk.dentry = read(mount + u64::from(fact!(mount_mnt_mountpoint)));
        walk.mount = parent + u64::from(fact!(mount_mnt));
        walk.mounts += 1;
        walk.mount_root = read(walk.mount + u64::from(fact!(vfsmount_mnt_root)));
        return Next::Onwards;
    }
    let dentry = walk.dentry;
    let sequence = dentry + u64::from(fact!(dentry_d_seq));
    let before = read_u32(sequence);
    let parent = read(dentry + u64::from(fact!(dentry_d_parent)));
    if parent == dentry || parent == 0 {
        // A dentry without a directory that is not the filesystem's root: a file that was opened by its handle, while
        // nobody had looked it up by a name. Where it is nobody knows.
        // SAFETY: as above.
        let root = unsafe { (*scratch).file.superblock } + u64::from(fact!(super_block_s_root));
        if read(root) == dentry {
            walk.outcome = AT_FILESYSTEM_ROOT;
        }
        return Next::Top;
    }
    let name = read(dentry + u64::from(fact!(dentry_d_name_name)));
    // SAFETY: the caller vouches for `place`.
    let written = unsafe {
        bpf_probe_read_kernel_str(place.cast(), NAME_SPACE as u32, name as *const c_void)
    };
    if written <= 0 || written > NAME_SPACE as i64 {
        return Next::Unreadable;
    }
    // A rename writes name and parent while the number is odd, a short name byte by byte in its place. What
    // was read in the meantime may be a name that never was: the next step reads it again. On x86-64 loads
    // stay in their order.
    if before & 1 != 0 || before != read_u32(sequence) {
        return Next::Onwards;
    }
    Next::Name {
        length: written as u64,
        parent,
    }
}

/// One step towards the file's own name: more than one if a mount is in the way, or a rename. Returns 1 to stop.
unsafe extern "C" fn step_to_name(_index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: `walk_up` passes on the address of a variable that holds the slot, which is taken for as long as the loop
    // runs.
    unsafe {
        let scratch = *context;
        match climb(scratch, (&raw mut (*scratch).name).cast()) {
            Next::Onwards => return 0,
            Next::Name { length, parent } => {
                (*scratch).record.names_length = length as u16;
                (*scratch).walk.dentry = parent;
            }
            Next::Top | Next::Unreadable => {}
        }
        1
    }
}

/// One step from the directory to the root. Returns 1 to stop.
unsafe extern "C" fn step(_index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: as in `step_to_name`. `length` is checked: NAME_SPACE bytes from there on are inside of the names.
    unsafe {
        let scratch = *context;
        let length = (*scratch).walk.length;
        if length > (NAMES_MAX - NAME_SPACE) as u64 {
            return 1;
        }
        let names = (&raw mut (*scratch).directory_names).cast::<u8>();
        match climb(scratch, names.add(length as usize)) {
            Next::Onwards => 0,
            Next::Name {
                length: more,
                parent,
            } => {
                (*scratch).walk.length = length + more;
                (*scratch).walk.dentry = parent;
                0
            }
            Next::Top | Next::Unreadable => 1,
        }
    }
}
