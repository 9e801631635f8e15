//! One freeze, as the programs that all freezes share know it: its place in these arrays, where its own maps are.
//!
//! premod puts its maps there before it guards the first inode, and takes them away after the last one. A place without
//! them is nobody's.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::ArrayOfMaps,
    helpers::generated::bpf_loop,
    macros::{btf_map, map},
    maps::Array,
};
use premod_common::{
    guard::{FREEZES_MAX, Own, Tally},
    inode::InodeAddress,
};

use crate::{
    atomic::increment,
    maps::{
        GUARDED,
        kind::{
            Commands, Happenings, Held, InFlights, Looks, Names, Owns, Protected, Refused,
            SharedMemory, StoppedThemselves, Superblocks, Switches, Tallies, WaitingRing,
        },
    },
};

type Each<T> = ArrayOfMaps<T, { FREEZES_MAX as usize }>;

/// How many places there are, from the first to the last one that is somebody's. Written by user space only.
#[map]
static PLACES: Array<u32> = Array::with_max_entries(1, 0);

#[btf_map]
static EACH_SWITCH: Each<Switches> = Each::new();
#[btf_map]
static EACH_TALLY: Each<Tallies> = Each::new();
#[btf_map]
static EACH_OWN: Each<Owns> = Each::new();
#[btf_map]
static EACH_PROTECTED: Each<Protected> = Each::new();
#[btf_map]
static EACH_LOOK: Each<Looks> = Each::new();
#[btf_map]
static EACH_HELD: Each<Held> = Each::new();
#[btf_map]
static EACH_SEIZED: Each<Held> = Each::new();
#[btf_map]
static EACH_SUPERBLOCKS: Each<Superblocks> = Each::new();
#[btf_map]
static EACH_NAMES: Each<Names> = Each::new();
#[btf_map]
static EACH_COMMANDS: Each<Commands> = Each::new();
#[btf_map]
static EACH_SHARED: Each<SharedMemory> = Each::new();
#[btf_map]
static EACH_IN_FLIGHT: Each<InFlights> = Each::new();
#[btf_map]
static EACH_REFUSED: Each<Refused> = Each::new();
#[btf_map]
static EACH_STOPPED_THEMSELVES: Each<StoppedThemselves> = Each::new();
#[btf_map]
static EACH_WAITING: Each<WaitingRing> = Each::new();
#[btf_map]
static EACH_HAPPENINGS: Each<Happenings> = Each::new();

/// One freeze.
#[derive(Clone, Copy)]
pub(crate) struct Set(u32);

/// Access to the maps of a freeze.
macro_rules! maps_of_set {
    ($($name:ident: $kind:ty = $each:ident;)*) => {
        impl Set {
            $(
                #[inline(always)]
                pub(crate) fn $name(self) -> Option<&'static $kind> {
                    $each.get(self.0)
                }
            )*
        }
    };
}

maps_of_set! {
    switch: Switches = EACH_SWITCH;
    tally: Tallies = EACH_TALLY;
    look: Looks = EACH_LOOK;
    held: Held = EACH_HELD;
    seized: Held = EACH_SEIZED;
    superblocks: Superblocks = EACH_SUPERBLOCKS;
    names: Names = EACH_NAMES;
    commands: Commands = EACH_COMMANDS;
    shared: SharedMemory = EACH_SHARED;
    in_flight: InFlights = EACH_IN_FLIGHT;
    refused: Refused = EACH_REFUSED;
    stopped_themselves: StoppedThemselves = EACH_STOPPED_THEMSELVES;
    waiting: WaitingRing = EACH_WAITING;
    happenings: Happenings = EACH_HAPPENINGS;
}

impl Set {
    /// The freeze that an inode belongs to, if it is frozen.
    #[inline(always)]
    pub(crate) fn of(inode: InodeAddress) -> Option<Self> {
        // SAFETY: a copy of a number.
        unsafe { GUARDED.get(inode) }.map(|place| Self(*place))
    }

    /// The freeze at a place, if it is somebody's.
    #[inline(always)]
    pub(crate) fn at(place: u32) -> Self {
        Self(place)
    }

    /// Its place.
    #[inline(always)]
    pub(crate) fn place(self) -> u32 {
        self.0
    }

    /// What is known of its premod.
    #[inline(always)]
    pub(crate) fn own(self) -> Own {
        EACH_OWN.get_value(self.0, &0).copied().unwrap_or_default()
    }

    /// Until when pages are protected again.
    #[inline(always)]
    pub(crate) fn protected(self) -> u64 {
        EACH_PROTECTED.get_value(self.0, &0).copied().unwrap_or(0)
    }

    /// Counts one in its tally.
    #[inline(always)]
    pub(crate) fn count(self, place: impl Fn(*mut Tally) -> *mut u64) {
        if let Some(tally) = EACH_TALLY.get_value_ptr_mut(self.0, &0) {
            // SAFETY: the pointer comes from the map; the fields are aligned u64.
            unsafe { increment(place(tally)) };
        }
    }
}

/// Does something for every place: the number of each, and the state, go to `act`, which answers 0 to go on.
#[inline(always)]
pub(crate) fn each<T>(state: &mut T, act: unsafe extern "C" fn(u64, *mut T) -> i64) {
    let places = PLACES.get(0).copied().unwrap_or(0);
    // SAFETY: `act` has the signature that bpf_loop calls, and the state outlives the loop.
    unsafe { bpf_loop(places, act as *mut c_void, (&raw mut *state).cast(), 0) };
}

/// Counts one in a field of a freeze's tally.
macro_rules! count {
    ($set:expr, $field:ident) => {
        $set.count(|tally| {
            // SAFETY: the pointer comes from the map.
            unsafe { &raw mut (*tally).$field }
        })
    };
}

pub(crate) use count;
