//! Maps and read-only data: all that the kernel side and the loader share at run time.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use premod_common::{
    counters::Counters,
    inode::{Enrolled, InodeAddress, TRACKED_MAX, TrackedInode},
};

use crate::{atomic::increment, kernel::Task, latch::Latch, scratch::Scratch};

pub(crate) use crate::facts::{fact, setting};

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
}

/// Counts one on this CPU.
#[inline(always)]
pub(crate) fn count(what: Count) {
    count_by_number(what as u64);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_by_number(what: u64) -> u64 {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the pointer comes from the map, and the fields, aligned u64, are in the order of their numbers.
    unsafe {
        let counters = counters.cast::<u64>();
        for number in 0..COUNTS {
            if what == number {
                increment(counters.add(number as usize));
            }
        }
    }
    0
}

const COUNTS: u64 = (size_of::<Counters>() / size_of::<u64>()) as u64;
