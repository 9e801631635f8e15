//! Maps and read-only data: all that the kernel side and the loader share at run time.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    helpers::generated::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use premod_common::{
    counters::Counters,
    inode::{Enrolled, InodeAddress, TRACKED_MAX, TrackedInode},
    watched::{Watched, WatchedName},
};

use crate::{atomic::increment, latch::Latch, scratch::Scratch};

pub(crate) use crate::facts::{fact, setting};

/// Events for user space. The loader sets the size.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Every inode touched so far, by the address of its `struct inode`. Memory is taken as inodes come, and
/// given back when the kernel frees the inode, so the map is never larger than the inode cache.
#[map]
pub(crate) static INODES: HashMap<InodeAddress, TrackedInode> =
    HashMap::with_max_entries(TRACKED_MAX, BPF_F_NO_PREALLOC);

/// Inodes of the PATHs given on the command line, with their [`premod_common::inode::ScopeRoot`], and of the directories
/// above them, with [`premod_common::watched::NAMES_BELOW`].
#[map]
pub(crate) static SCOPE: HashMap<InodeAddress, u32> =
    HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// The names by which the PATHs are reached.
#[map]
pub(crate) static NAMES: HashMap<WatchedName, Watched> =
    HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);
/// Ids of the cgroups that are asked for together with those below them.
#[map]
pub(crate) static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// When each filesystem was last synced as a whole, by the address of its superblock. If one falls out,
/// changes on it that left no dirty page are announced again later than they could be.
#[map]
pub(crate) static SYNCED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// When a filesystem, whichever, was last synced as a whole.
pub(crate) static LAST_SYNC: Latch = Latch::new();

/// Changes whenever a directory is renamed or the mounts change: older scope verdicts are void. In a section of its
/// own, which is a map to user space.
#[unsafe(link_section = ".data.epoch")]
pub(crate) static SCOPE_EPOCH: Latch = Latch::new();

/// How often a name was given to something else by which a symbolic link is reached ([`Watched::LINKS`]).
pub(crate) static LINKS_SWITCHED: Latch = Latch::new();

/// How many of these changes user space has followed. In a section of its own, as [`SCOPE_EPOCH`].
#[unsafe(link_section = ".data.followed")]
pub(crate) static LINKS_FOLLOWED: Latch = Latch::new();

/// What is counted, a value for each CPU: the loader sets how many there are. User space maps it.
#[map]
pub(crate) static COUNTERS: Array<Counters> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The answer of the enrolment hook.
#[map]
pub(crate) static ENROLLED: Array<Enrolled> = Array::with_max_entries(1, 0);

/// Work space that is too large for the BPF stack.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> =
    PerCpuArray::with_max_entries(crate::scratch::SLOTS, 0);

/// Something to count, in the order of [`Counters`].
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Count {
    Delivered,
    Lost,
    Retried,
    Untracked,
    Contended,
    Late,
    Moves,
    Switches,
}

/// Counts one on this CPU.
#[inline(always)]
pub(crate) fn count(what: Count) {
    count_by_number(what as u64);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_by_number(what: u64) -> u64 {
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(counters) = COUNTERS.get_ptr_mut(cpu) else {
        return 0;
    };
    // SAFETY: the pointer comes from the map, and the fields, aligned u64, are in the order of their numbers. There is room
    // for as many as the mask lets through, so that the verifier need not follow a way for each.
    unsafe { increment(counters.cast::<u64>().add((what & MASK) as usize)) };
    0
}

const MASK: u64 = (size_of::<Counters>() / size_of::<u64>() - 1) as u64;
const _: () = assert!(MASK.count_ones() == MASK.trailing_ones());
