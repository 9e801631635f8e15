//! The kernel side of the generation protocol: finds the inode's word, asks premod-common what follows,
//! swaps the word and announces.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_ktime_get_ns};
use premod_common::{
    event::{FLAG_ECHO, FLAG_PRE, FLAG_RETRY, FLAG_UNTRACKED},
    generation::{self, Announcement, Mapping, Step, Touch, Word},
    inode::{TrackedInode, identity},
};

use crate::{
    atomic::{compare_and_swap, opaque},
    emit::{Announce, Change, emit},
    hooks::dedupe::is_deduplicating,
    kernel::{Inode, Place, current_process},
    maps::{Count, INODES, LAST_SYNC, SYNCED, count, setting},
    quiet::{self, Quiet},
    scope::is_inside,
};

/// Attempts at a compare-and-swap before a touch announces without it.
const ATTEMPTS: u32 = 4;

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
    advance(inode, place, change, |word, mapping, own| {
        let touch = Touch {
            unpaged: change.unpaged,
            own,
        };
        generation::touch(word, mapping, touch)
    });
}

/// A page of `inode` is about to be marked dirty.
#[inline(always)]
pub(crate) fn dirtied(inode: Inode, place: Place, change: Change) {
    if quiet::look(inode, || place.mount) == Quiet::Outside {
        return;
    }
    advance(inode, place, change, generation::dirtied);
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
fn advance(inode: Inode, place: Place, change: Change, step: impl Fn(Word, Mapping, bool) -> Step) {
    if !inode.is_tracked_kind() {
        return;
    }
    let entry = find(inode);
    // SAFETY: `entry` is null or comes from the map.
    if !unsafe { is_inside(entry, inode, place) } {
        return;
    }
    // One place announces, whatever the reason: the verifier walks through all that follows for each.
    let Some(decision) = decide(entry, inode, place, step) else {
        return;
    };
    let decision = Decision {
        flags: opaque(decision.flags.into()) as u8,
        ..decision
    };
    let Decision {
        generation,
        born,
        now,
        flags,
    } = decision;
    let delivered = emit(&Announce {
        inode,
        place,
        change,
        generation,
        born,
        now,
        flags,
    });
    conclude(entry, decision, delivered);
}

/// An announcement that has to be made.
#[derive(Clone, Copy)]
struct Decision {
    generation: u64,
    born: u64,
    /// When it was decided, before the word was swapped.
    now: u64,
    /// The `FLAG_…` bits that say how it came about.
    flags: u8,
}

/// Swaps the inode's word, and says what has to be announced.
#[inline(always)]
fn decide(
    entry: *mut TrackedInode,
    inode: Inode,
    place: Place,
    step: impl Fn(Word, Mapping, bool) -> Step,
) -> Option<Decision> {
    if entry.is_null() {
        return untracked();
    }
    let mut own = false;
    for _ in 0..ATTEMPTS {
        // SAFETY: the pointer comes from the map.
        let word = Word(unsafe { read_volatile(&raw const (*entry).word) });
        let mapping = mapping(entry, word, inode);
        let mut next = step(word, mapping, own);
        if let Step::Announce(..) = next
            && (is_own() || is_deduplicating(inode))
        {
            own = true;
            next = step(word, mapping, own);
        }
        let (new, flags, now) = match next {
            Step::Nothing => {
                if mapping.dirty && word.silent_while_dirty() {
                    // SAFETY: the pointer comes from the map.
                    unsafe {
                        let verdict = read_volatile(&raw const (*entry).verdict);
                        quiet::learn(inode, place, true, entry, (word.0, verdict));
                    }
                }
                return None;
            }
            Step::Store(new) => (new, None, 0),
            Step::Announce(new, announcement) => {
                // Before the swap: a sync of what another task announces and changes in between counts.
                // SAFETY: no preconditions.
                let now = unsafe { bpf_ktime_get_ns() };
                (new, Some(flags_of(announcement)), now)
            }
        };
        // SAFETY: the pointer comes from the map; `word` is an aligned u64.
        if unsafe { compare_and_swap(&raw mut (*entry).word, word.0, new.0) } {
            quiet::forget(inode);
            let flags = flags?;
            // Before the event goes out, so that a sync that the event's reader asks for counts.
            // SAFETY: the pointer comes from the map.
            unsafe { write_volatile(&raw mut (*entry).announced, now) };
            return Some(Decision {
                generation: new.generation(),
                // SAFETY: the pointer comes from the map.
                born: unsafe { (*entry).born },
                now,
                flags,
            });
        }
    }
    count(Count::Contended);
    untracked()
}

/// Announces without keeping track: too often rather than too rarely.
#[inline(always)]
fn untracked() -> Option<Decision> {
    if is_own() {
        return None;
    }
    count(Count::Untracked);
    Some(Decision {
        generation: 0,
        born: 0,
        // SAFETY: no preconditions.
        now: unsafe { bpf_ktime_get_ns() },
        flags: FLAG_PRE | FLAG_UNTRACKED,
    })
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

/// Counts the announcement, and tells the inode's word what became of it.
#[inline(always)]
fn conclude(entry: *mut TrackedInode, decision: Decision, delivered: bool) {
    let Decision {
        generation, flags, ..
    } = decision;
    let retry = flags & FLAG_RETRY != 0;
    if flags == 0 {
        count(Count::Late);
    }
    if delivered {
        count(Count::Delivered);
        if retry {
            count(Count::Retried);
        }
    }
    if entry.is_null() || flags & FLAG_UNTRACKED != 0 {
        if !delivered {
            count(Count::Lost);
        }
        return;
    }
    for _ in 0..ATTEMPTS {
        // SAFETY: the pointer comes from the map.
        let word = Word(unsafe { read_volatile(&raw const (*entry).word) });
        let Step::Store(new) = generation::announced(word, generation, delivered) else {
            return;
        };
        // SAFETY: the pointer comes from the map; `word` is an aligned u64.
        if unsafe { compare_and_swap(&raw mut (*entry).word, word.0, new.0) } {
            // A generation is counted as lost once, however often its announcement fails.
            if !delivered && !retry {
                count(Count::Lost);
            }
            return;
        }
    }
    count(Count::Contended);
}

/// How the inode looks now. Its age is looked at only where it matters.
#[inline(always)]
fn mapping(entry: *mut TrackedInode, word: Word, inode: Inode) -> Mapping {
    let dirty = inode.is_dirty();
    if dirty || !word.age_matters() {
        return Mapping { dirty, aged: false };
    }
    // SAFETY: the pointer comes from the map.
    let announced = unsafe { read_volatile(&raw const (*entry).announced) };
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let aged = now.wrapping_sub(announced) > setting!(period)
        || LAST_SYNC.get() > announced && synced_at(inode) > announced;
    Mapping { dirty, aged }
}

/// When the inode's filesystem was last synced as a whole.
#[inline(always)]
fn synced_at(inode: Inode) -> u64 {
    // SAFETY: a shared reference into a map value; the kernel may change it, but it is a plain number.
    unsafe { SYNCED.get(inode.superblock().address()) }
        .copied()
        .unwrap_or(0)
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
