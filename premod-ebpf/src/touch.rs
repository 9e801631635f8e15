//! The kernel side of the generation protocol: finds the inode's word, asks premod-common what follows,
//! swaps the word and announces.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_ktime_get_ns};
use premod_common::{
    event::{FLAG_ECHO, FLAG_PRE, FLAG_RETRY, FLAG_UNTRACKED},
    generation::{self, Announcement, Mapping, Step, Word},
    inode::{TrackedInode, identity},
};

use crate::{
    atomic::compare_and_swap,
    emit::{Change, Decision, announce},
    hooks::dedupe::is_deduplicating,
    kernel::{Inode, Place, current_process, untyped},
    maps::{Count, INODES, LAST_SYNC, SYNCED, count, setting},
    protocol::{self, How, Protocol},
    quiet::{self, Quiet},
    scope::is_inside,
};

/// Attempts at a compare-and-swap before a touch announces without it.
pub(crate) const ATTEMPTS: u32 = 4;

/// A hook says that the data of `inode` is about to be modified.
#[inline(always)]
pub(crate) fn touch(inode: Inode, place: Place, change: Change) {
    if !is_quiet(inode, change.unpaged, || place.mount) {
        touch_noisy(inode, place, change);
    }
}

/// Whether a touch has nothing to do: the hot path.
#[inline(always)]
pub(crate) fn is_quiet(inode: Inode, unpaged: bool, mount: impl FnOnce() -> u64) -> bool {
    match quiet::look(inode, mount) {
        Quiet::Outside => true,
        Quiet::Announced => !unpaged,
        Quiet::No => false,
    }
}

/// As [`touch`], if the inode is not quiet.
#[inline(always)]
pub(crate) fn touch_noisy(inode: Inode, place: Place, change: Change) {
    advance(inode, place, change, protocol::touch);
}

/// A page of `inode` is about to be marked dirty.
#[inline(always)]
pub(crate) fn dirtied(inode: Inode, place: Place, change: Change) {
    if quiet::look(inode, || place.mount) == Quiet::Outside {
        return;
    }
    advance(inode, place, change, protocol::dirtied);
}

/// The inode is being synced.
#[inline(always)]
pub(crate) fn synced(inode: Inode) {
    let Some(entry) = INODES.get_ptr_mut(inode.address()) else {
        return;
    };
    for _ in 0..ATTEMPTS {
        // SAFETY: the pointer comes from the map.
        let word = Word(unsafe { read_volatile(&raw const (*entry).word) });
        let Step::Store(new) = generation::synced(word) else {
            return;
        };
        // SAFETY: the pointer comes from the map; `word` is an aligned u64.
        if unsafe { compare_and_swap(&raw mut (*entry).word, word.0, new.0) } {
            return;
        }
    }
}

#[inline(always)]
fn advance(inode: Inode, place: Place, change: Change, protocol: Protocol) {
    if !inode.is_tracked_kind() {
        return;
    }
    let entry = find(inode);
    // SAFETY: `entry` is null or comes from the map.
    if !unsafe { is_inside(entry, inode, place) } {
        return;
    }
    let decision = decide(entry, inode, place, change, protocol);
    if decision.flags != SILENT {
        announce(inode, place, change, entry, decision);
    }
}

/// In place of a [`Decision`]'s flags: nothing has to be announced. Not an `Option`, whose unused half the compiler would
/// move about without ever having set it, which the verifier forbids.
const SILENT: u64 = 1 << 8;

/// Nothing has to be announced.
const NOTHING: Decision = Decision {
    generation: 0,
    born: 0,
    now: 0,
    flags: SILENT,
};

/// Swaps the inode's word, and says what has to be announced.
#[inline(always)]
fn decide(
    entry: *mut TrackedInode,
    inode: Inode,
    place: Place,
    change: Change,
    protocol: Protocol,
) -> Decision {
    if entry.is_null() {
        return untracked();
    }
    let superblock = untyped(inode.superblock().address());
    let mut own = false;
    for _ in 0..ATTEMPTS {
        // SAFETY: the pointer comes from the map.
        let word = Word(unsafe { read_volatile(&raw const (*entry).word) });
        let dirty = inode.is_dirty();
        let aged = !dirty && word.age_matters() && has_aged(entry, superblock) != 0;
        let mapping = Mapping { dirty, aged };
        let mut next = protocol(word, How::new(mapping, change, own));
        if let Step::Announce(..) = next
            && is_silent_task(untyped(inode.address())) != 0
        {
            own = true;
            next = protocol(word, How::new(mapping, change, own));
        }
        let (new, flags) = match next {
            Step::Nothing => {
                if dirty && word.silent_while_dirty() {
                    learn_announced(
                        untyped(inode.address()),
                        untyped(place.mount),
                        entry,
                        word.0,
                    );
                }
                return NOTHING;
            }
            Step::Store(new) => (new, SILENT),
            Step::Announce(new, announcement) => (new, flags_of(announcement).into()),
        };
        let now = match flags {
            SILENT => 0,
            // Before the swap: a sync of what another task announces and changes in between counts.
            // SAFETY: no preconditions.
            _ => unsafe { bpf_ktime_get_ns() },
        };
        if swap(entry, word.0, new.0, untyped(inode.address())) != 0 {
            if flags == SILENT {
                return NOTHING;
            }
            // Before the event goes out, so that a sync that the event's reader asks for counts.
            // SAFETY: the pointer comes from the map.
            unsafe { write_volatile(&raw mut (*entry).announced, now) };
            return Decision {
                generation: new.generation(),
                // SAFETY: the pointer comes from the map.
                born: unsafe { (*entry).born },
                now,
                flags,
            };
        }
    }
    count(Count::Contended);
    untracked()
}

/// Swaps the entry's word, and forgets that the inode at this address is quiet; 0 if another task was faster.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn swap(entry: *mut TrackedInode, word: u64, new: u64, inode: u64) -> u64 {
    // SAFETY: the pointer comes from the map; `word` is an aligned u64.
    if entry.is_null() || !unsafe { compare_and_swap(&raw mut (*entry).word, word, new) } {
        return 0;
    }
    quiet::forget(Inode(inode as *const u8));
    1
}

/// Notes that the inode at this address is quiet for as long as it is dirty, unless its word has changed since.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn learn_announced(inode: u64, mount: u64, entry: *mut TrackedInode, word: u64) -> u64 {
    if entry.is_null() {
        return 0;
    }
    let place = Place { mount, dentry: 0 };
    // SAFETY: the pointer comes from the map.
    unsafe {
        let verdict = read_volatile(&raw const (*entry).verdict);
        quiet::learn(
            Inode(inode as *const u8),
            place,
            true,
            entry,
            (word, verdict),
        );
    }
    0
}

/// Announces without keeping track: too often rather than too rarely.
#[inline(always)]
fn untracked() -> Decision {
    if is_own() {
        return NOTHING;
    }
    count(Count::Untracked);
    Decision {
        generation: 0,
        born: 0,
        // SAFETY: no preconditions.
        now: unsafe { bpf_ktime_get_ns() },
        flags: u64::from(FLAG_PRE | FLAG_UNTRACKED),
    }
}

#[inline(always)]
const fn flags_of(announcement: Announcement) -> u8 {
    match announcement {
        Announcement::First => FLAG_PRE,
        Announcement::Echo => FLAG_PRE | FLAG_ECHO,
        Announcement::Retry => FLAG_RETRY,
        Announcement::Late => 0,
    }
}

/// Whether what was announced last is on disk by now, if pages do not tell: [`Mapping::aged`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn has_aged(entry: *mut TrackedInode, superblock: u64) -> u64 {
    if entry.is_null() {
        return 0;
    }
    // SAFETY: the pointer comes from the map.
    let announced = unsafe { read_volatile(&raw const (*entry).announced) };
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let aged = now.wrapping_sub(announced) > setting!(period)
        || LAST_SYNC.get() > announced && synced_at(superblock) > announced;
    aged.into()
}

/// When the filesystem was last synced as a whole.
#[inline(always)]
fn synced_at(superblock: u64) -> u64 {
    // SAFETY: a shared reference into a map value; the kernel may change it, but it is a plain number.
    unsafe { SYNCED.get(superblock) }.copied().unwrap_or(0)
}

/// Whether what the running task does is not announced, without hiding anybody else's: premod's own changes, and
/// deduplication, which changes no byte.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_silent_task(inode: u64) -> u64 {
    (is_own() || is_deduplicating(inode)).into()
}

/// The inode's entry, made if there is none; null if there is no room.
#[inline(always)]
fn find(inode: Inode) -> *mut TrackedInode {
    let identity = identity(inode.number(), inode.generation());
    if let Some(entry) = INODES.get_ptr_mut(inode.address()) {
        // SAFETY: the pointer comes from the map.
        if unsafe { (*entry).identity } == identity {
            return entry;
        }
        // Another inode took the memory, and its predecessor's end was not seen.
        let _ = INODES.remove(inode.address());
        quiet::forget(inode);
    }
    // SAFETY: no preconditions.
    let born = unsafe { bpf_ktime_get_ns() };
    let fresh = TrackedInode {
        identity,
        born,
        ..TrackedInode::default()
    };
    // If another CPU was faster, its entry is as good.
    let _ = INODES.insert(inode.address(), fresh, u64::from(BPF_NOEXIST));
    INODES
        .get_ptr_mut(inode.address())
        .unwrap_or(core::ptr::null_mut())
}

/// The running task is premod itself, and its changes are not asked for.
#[inline(always)]
fn is_own() -> bool {
    current_process() == setting!(own_pid) && setting!(include_own) == 0
}
