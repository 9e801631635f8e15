//! Maps of a freeze.
//!
//! All freezes of a machine share the programs, and so what stands here first. The rest belongs to one freeze: each has
//! maps of its own, made with these definitions, and the shared programs find them by [`crate::set::Set`]. Only what
//! hangs for one freeze alone names them: `sys_exit`, and what premod runs itself.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::{btf_map, map},
    maps::HashMap,
};
use premod_common::{
    guard::{
        COMMANDS_MAX, GUARDED_BY_ALL_MAX, GUARDED_MAX, GuardRecord, HELD_MAX, HeldProcess,
        IN_FLIGHT_MAX, InFlight, Look, NAMES_MAX, Own, SHARED_MAX, Switch, Tally, Waiting,
    },
    inode::InodeAddress,
};

/// Kinds of maps that each freeze has one of.
pub(crate) mod kind {
    use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, RingBuf};

    use super::{
        BPF_F_NO_PREALLOC, COMMANDS_MAX, GUARDED_MAX, GuardRecord, HELD_MAX, HeldProcess,
        IN_FLIGHT_MAX, InFlight, Look, NAMES_MAX, Own, SHARED_MAX, Switch, Tally, Waiting,
    };

    const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

    pub(crate) type Switches = Array<Switch, 1>;
    pub(crate) type Tallies = Array<Tally, 1>;
    pub(crate) type Owns = Array<Own, 1>;
    pub(crate) type Protected = Array<u64, 1>;
    pub(crate) type Looks = Array<Look, 1>;
    pub(crate) type Held = HashMap<u32, HeldProcess, { HELD_MAX as usize }>;
    pub(crate) type Superblocks = HashMap<u64, u32, { GUARDED_MAX as usize }>;
    pub(crate) type Names = HashMap<u64, u32, { NAMES_MAX as usize }, NO_PREALLOC>;
    pub(crate) type Commands = HashMap<u64, u32, { COMMANDS_MAX as usize }, NO_PREALLOC>;
    pub(crate) type SharedMemory = HashMap<u64, u32, { SHARED_MAX as usize }, NO_PREALLOC>;
    pub(crate) type InFlights = HashMap<u32, InFlight, { IN_FLIGHT_MAX as usize }>;
    pub(crate) type Refused = LruHashMap<u32, u32, 1024>;
    pub(crate) type StoppedThemselves = LruHashMap<u32, u64, 4096>;
    pub(crate) type WaitingRing = RingBuf<Waiting, { 1 << 16 }>;
    pub(crate) type Happenings = RingBuf<GuardRecord, { 1 << 20 }>;
}

/// The inodes that are frozen, of all freezes: the place of each one's freeze ([`crate::set`]).
#[map]
pub(crate) static GUARDED: HashMap<InodeAddress, u32> =
    HashMap::with_max_entries(GUARDED_BY_ALL_MAX, BPF_F_NO_PREALLOC);

/// Threads in a fault that is noted for a freeze, by thread id: its place. Most faults end without being noted by anybody, which
/// costs one look here.
#[map]
pub(crate) static FAULTS: HashMap<u32, u32> = HashMap::with_max_entries(IN_FLIGHT_MAX, 0);

/// The inodes that are frozen together; 1 for each. For what premod runs itself.
#[map]
pub(crate) static GUARDS: HashMap<InodeAddress, u32> = HashMap::with_max_entries(GUARDED_MAX, 0);

/// The superblocks of these inodes, and the magic numbers of these, which are no addresses; 1 for each.
#[btf_map]
pub(crate) static SUPERBLOCKS: kind::Superblocks = kind::Superblocks::new();

/// What to do with them. Written by user space only, but for the end of its premod.
#[btf_map]
pub(crate) static SWITCH: kind::Switches = kind::Switches::new();

/// CMD, and whatever it has started, by the addresses of their tasks: premod waits for them ([`crate::command`]).
#[btf_map]
pub(crate) static COMMANDS: kind::Commands = kind::Commands::new();

/// Names on the ways to the files, by the addresses of their dentries ([`crate::names`]).
#[btf_map]
pub(crate) static NAMES: kind::Names = kind::Names::new();

/// Memory that several processes have, or had, by the addresses of their `mm_struct`s ([`crate::memory`]).
#[btf_map]
pub(crate) static SHARED: kind::SharedMemory = kind::SharedMemory::new();

/// What is counted. Written by the kernel side only.
#[btf_map]
pub(crate) static TALLY: kind::Tallies = kind::Tallies::new();

/// Processes that were stopped by SIGSTOP, by process id. premod's keeper continues them.
#[btf_map]
pub(crate) static HELD: kind::Held = kind::Held::new();

/// Processes that premod's keeper has seized, or is to seize, by process id.
#[btf_map]
pub(crate) static SEIZED: kind::Held = kind::Held::new();

/// Processes that have stopped themselves, by process id, and when (`CLOCK_MONOTONIC`, in nanoseconds): as su and sudo do when
/// they see that their child is stopped.
#[btf_map]
pub(crate) static STOPPED_THEMSELVES: kind::StoppedThemselves = kind::StoppedThemselves::new();

/// What the keeper is told: [`premod_common::guard::Waiting`].
#[btf_map]
pub(crate) static WAITING: kind::WaitingRing = kind::WaitingRing::new();

/// What has to be known of premod itself, and how it wants to freeze. Written by user space only.
#[btf_map]
pub(crate) static OWN: kind::Owns = kind::Owns::new();

/// A page that a fault made writable before this time is protected again: nanoseconds of `CLOCK_MONOTONIC`. Written by user
/// space only.
#[btf_map]
pub(crate) static PROTECTED: kind::Protected = kind::Protected::new();

/// Modifiers that have passed their check while the switch was watching, by thread id; and, while it is
/// closed, threads in a fault that they will be stopped after.
#[btf_map]
pub(crate) static IN_FLIGHT: kind::InFlights = kind::InFlights::new();

/// Threads that may have been modifying before the programs hung, by thread id: 1 when a system call of theirs
/// has ended since.
#[map]
pub(crate) static AWAITED: HashMap<u32, u32> = HashMap::with_max_entries(IN_FLIGHT_MAX, 0);

/// Processes whose refusal, or death, was told: once is enough.
#[btf_map]
pub(crate) static REFUSED: kind::Refused = kind::Refused::new();

/// Records for user space: [`premod_common::guard::GuardRecord`].
#[btf_map]
pub(crate) static HAPPENINGS: kind::Happenings = kind::Happenings::new();

/// The answer to premod's own question.
#[btf_map]
pub(crate) static LOOK: kind::Looks = kind::Looks::new();
