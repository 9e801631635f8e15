//! Maps and settings of a freeze.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, RingBuf},
};
use premod_common::{
    guard::{
        COMMANDS_MAX, GUARDED_MAX, GuardSettings, HELD_MAX, HeldProcess, IN_FLIGHT_MAX, InFlight,
        Look, NAMES_MAX, Own, SHARED_MAX, Switch, Tally,
    },
    inode::InodeAddress,
};

use crate::{atomic::increment, facts::as_loaded};

/// This freeze's settings; the loader overwrites them before the programs are verified.
#[unsafe(no_mangle)]
// SAFETY: integers only.
pub(crate) static GUARD: GuardSettings = unsafe { core::mem::zeroed() };

/// The settings as the loader has set them.
#[inline(always)]
pub(crate) fn settings() -> GuardSettings {
    as_loaded(&GUARD)
}

/// The inodes that are frozen together; 1 for each.
#[map]
pub(crate) static GUARDS: HashMap<InodeAddress, u32> = HashMap::with_max_entries(GUARDED_MAX, 0);

/// The superblocks of these inodes, and the magic numbers of these, which are no addresses; 1 for each.
#[map]
pub(crate) static SUPERBLOCKS: HashMap<u64, u32> = HashMap::with_max_entries(GUARDED_MAX, 0);

/// What to do with them. Written by user space only.
#[map]
pub(crate) static SWITCH: Array<Switch> = Array::with_max_entries(1, 0);

/// CMD, and whatever it has started, by the addresses of their tasks: premod waits for them ([`crate::command`]).
#[map]
pub(crate) static COMMANDS: HashMap<u64, u32> =
    HashMap::with_max_entries(COMMANDS_MAX, BPF_F_NO_PREALLOC);

/// Memory that several processes have, or had, by the addresses of their `mm_struct`s ([`crate::memory`]).
#[map]
pub(crate) static SHARED: HashMap<u64, u32> =
    HashMap::with_max_entries(SHARED_MAX, BPF_F_NO_PREALLOC);

/// Names on the ways to the files, by the addresses of their dentries ([`crate::names`]).
#[map]
pub(crate) static NAMES: HashMap<u64, u32> =
    HashMap::with_max_entries(NAMES_MAX, BPF_F_NO_PREALLOC);

/// What is counted. Written by the kernel side only.
#[map]
pub(crate) static TALLY: Array<Tally> = Array::with_max_entries(1, 0);

/// Processes that were stopped by SIGSTOP, by process id. premod's keeper continues them.
#[map]
pub(crate) static HELD: HashMap<u32, HeldProcess> = HashMap::with_max_entries(HELD_MAX, 0);

/// Processes that premod's keeper has seized, or is to seize, by process id.
#[map]
pub(crate) static SEIZED: HashMap<u32, HeldProcess> = HashMap::with_max_entries(HELD_MAX, 0);

/// Processes that have stopped themselves, by process id, and when (`CLOCK_MONOTONIC`, in nanoseconds): as su and sudo do when
/// they see that their child is stopped.
#[map]
pub(crate) static STOPPED_THEMSELVES: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// What the keeper is told: [`premod_common::guard::Waiting`].
#[map]
pub(crate) static WAITING: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

/// What has to be known of premod itself. Written by user space only.
#[map]
pub(crate) static OWN: Array<Own> = Array::with_max_entries(1, 0);

/// A page that a fault made writable before this time is protected again: nanoseconds of `CLOCK_MONOTONIC`. Written by user
/// space only.
#[map]
pub(crate) static PROTECTED: Array<u64> = Array::with_max_entries(1, 0);

/// Modifiers that have passed their check while the switch was watching, by thread id; and, while it is
/// closed, threads in a fault that they will be stopped after.
#[map]
pub(crate) static IN_FLIGHT: HashMap<u32, InFlight> = HashMap::with_max_entries(IN_FLIGHT_MAX, 0);

/// Threads that may have been modifying before the programs hung, by thread id: 1 when a system call of theirs
/// has ended since.
#[map]
pub(crate) static AWAITED: HashMap<u32, u32> = HashMap::with_max_entries(IN_FLIGHT_MAX, 0);

/// Processes whose refusal, or death, was told: once is enough.
#[map]
pub(crate) static REFUSED: LruHashMap<u32, u32> = LruHashMap::with_max_entries(1024, 0);

/// Records for user space.
#[map]
pub(crate) static HAPPENINGS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// The answer to premod's own question.
#[map]
pub(crate) static LOOK: Array<Look> = Array::with_max_entries(1, 0);

/// What is known of premod itself.
#[inline(always)]
pub(crate) fn own() -> Own {
    OWN.get(0).copied().unwrap_or_default()
}

/// Counts one in the tally.
#[inline(always)]
pub(crate) fn count_one(place: impl Fn(*mut Tally) -> *mut u64) {
    if let Some(tally) = TALLY.get_ptr_mut(0) {
        // SAFETY: the pointer comes from the map; the fields are aligned u64.
        unsafe { increment(place(tally)) };
    }
}

/// Counts one in a field of the tally.
macro_rules! count {
    ($field:ident) => {
        $crate::maps::count_one(|tally| {
            // SAFETY: the pointer comes from the map.
            unsafe { &raw mut (*tally).$field }
        })
    };
}

pub(crate) use count;
