//! Maps and read-only data: all that the kernel side and the loader share at run time.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use premod_common::{
    counters::Counters,
    facts::{Facts, Settings},
    inode::{Enrolled, InodeAddress, TRACKED_MAX, TrackedInode},
};

use crate::{atomic::increment, kernel::Task, scratch::Scratch};

/// The kernel's layout; the loader overwrites it before the programs are verified.
#[unsafe(no_mangle)]
pub(crate) static FACTS: Facts = Facts {
    file_f_inode: 0,
    file_f_path: 0,
    file_f_flags: 0,
    path_mnt: 0,
    path_dentry: 0,
    vfsmount_mnt_root: 0,
    mount_mnt: 0,
    mount_mnt_parent: 0,
    mount_mnt_mountpoint: 0,
    mount_mnt_ns: 0,
    dentry_d_parent: 0,
    dentry_d_name_name: 0,
    dentry_d_name_len: 0,
    dentry_d_inode: 0,
    dentry_d_hash_pprev: 0,
    dentry_d_alias: 0,
    dentry_d_seq: 0,
    hlist_node_next: 0,
    inode_i_mode: 0,
    inode_i_sb: 0,
    inode_i_mapping: 0,
    inode_i_ino: 0,
    inode_i_generation: 0,
    inode_i_dentry_first: 0,
    inode_i_nlink: 0,
    address_space_host: 0,
    address_space_xa_flags: 0,
    super_block_s_dev: 0,
    super_block_s_magic: 0,
    super_block_s_bdi: 0,
    super_block_s_type: 0,
    file_system_type_name: 0,
    vm_fault_vma: 0,
    vm_fault_pgoff: 0,
    vm_fault_flags: 0,
    vm_area_struct_vm_file: 0,
    vm_area_struct_vm_flags: 0,
    kiocb_ki_filp: 0,
    kiocb_ki_pos: 0,
    iov_iter_count: 0,
    iattr_ia_valid: 0,
    iattr_ia_size: 0,
    folio_mapping: 0,
    renamedata_old_dentry: 0,
    renamedata_new_dentry: 0,
    mapping_dirty_mark: 0,
    i_dirty_pages: 0,
    fault_flag_write: 0,
    page_shift: 0,
    o_direct: 0,
};

/// This run's settings; the loader overwrites them before the programs are verified.
#[unsafe(no_mangle)]
pub(crate) static SETTINGS: Settings = Settings {
    nonce: 0,
    untracked_bdi: 0,
    overlay_magic: 0,
    period: 0,
    own_pid: 0,
    scoped: 0,
    include_own: 0,
    padding: 0,
};

/// Reads one field of [`FACTS`] as the loader has set it.
macro_rules! fact {
    ($field:ident) => {
        $crate::maps::as_loaded(&$crate::maps::FACTS.$field)
    };
}

/// Reads one field of [`SETTINGS`] as the loader has set it.
macro_rules! setting {
    ($field:ident) => {
        $crate::maps::as_loaded(&$crate::maps::SETTINGS.$field)
    };
}

/// Reads what the loader has put in the place of the compiled-in zero.
#[inline(always)]
pub(crate) fn as_loaded<T: Copy>(field: &'static T) -> T {
    // SAFETY: a valid reference; volatile keeps the compiler from folding the zeroes.
    unsafe { core::ptr::read_volatile(field) }
}

pub(crate) use {fact, setting};

/// Events for user space. The loader sets the size.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Every inode touched so far, by the address of its `struct inode`. Memory is taken as inodes come, and
/// given back when the kernel frees the inode, so the map is never larger than the inode cache.
#[map]
pub(crate) static INODES: HashMap<InodeAddress, TrackedInode> =
    HashMap::with_max_entries(TRACKED_MAX, BPF_F_NO_PREALLOC);

/// Inodes of the PATHs given on the command line, with their [`premod_common::inode::ScopeRoot`].
#[map]
pub(crate) static SCOPE: HashMap<InodeAddress, u32> =
    HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// When each filesystem was last synced as a whole, by the address of its superblock. If one falls out,
/// changes on it that left no dirty page are announced again later than they could be.
#[map]
pub(crate) static SYNCED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// Changes whenever a directory is renamed or the mounts change: older scope verdicts are void.
#[map]
pub(crate) static SCOPE_EPOCH: Array<u64> = Array::with_max_entries(1, 0);

/// Tasks in the middle of a deduplication, with the inode whose blocks are replaced by equal ones. If one
/// falls out, its deduplication is announced like a write.
#[map]
pub(crate) static DEDUPES: LruHashMap<Task, InodeAddress> = LruHashMap::with_max_entries(1024, 0);

/// Tasks in the middle of an ioctl that exchanges the blocks of two files.
#[map]
pub(crate) static EXCHANGES: LruHashMap<Task, u32> = LruHashMap::with_max_entries(1024, 0);

/// What is counted, per CPU.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// The answer of the enrolment hook.
#[map]
pub(crate) static ENROLLED: Array<Enrolled> = Array::with_max_entries(1, 0);

/// Work space that is too large for the BPF stack.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> =
    PerCpuArray::with_max_entries(crate::scratch::SLOTS, 0);

/// Something to count.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    Delivered,
    Lost,
    Retried,
    Untracked,
    Contended,
    Late,
}

/// Counts one on this CPU.
#[inline(always)]
pub(crate) fn count(what: Count) {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the pointer comes from the map; the fields are aligned u64.
    unsafe {
        increment(match what {
            Count::Delivered => &raw mut (*counters).delivered,
            Count::Lost => &raw mut (*counters).lost,
            Count::Retried => &raw mut (*counters).retried,
            Count::Untracked => &raw mut (*counters).untracked,
            Count::Contended => &raw mut (*counters).contended,
            Count::Late => &raw mut (*counters).late,
        });
    }
}
