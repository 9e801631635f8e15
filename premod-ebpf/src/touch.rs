//! The kernel side of the generation protocol: finds the inode's word, asks premod-common what follows,
//! swaps the word and announces.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
};
use premod_common::{
    event::{FLAG_ECHO, FLAG_PRE, FLAG_RETRY, FLAG_UNTRACKED},
    generation::{self, Announcement, Step, Touch, Word},
    inode::{TrackedInode, identity},
};

use crate::{
    atomic::compare_and_swap,
    emit::{Announce, Change, emit},
    kernel::{Inode, Place},
    maps::{Count, INODES, count, setting},
    scope::is_inside,
};

/// Attempts at a compare-and-swap before a touch announces without it.
const ATTEMPTS: u32 = 8;

/// A hook says that the data of `inode` is about to be modified.
#[inline(always)]
pub(crate) fn touch(inode: Inode, place: Place, change: Change) {
    advance(inode, place, change, |word, inode, own| {
        generation::touch(
            word,
            inode.mapping(),
            Touch {
                unpaged: change.unpaged,
                own,
            },
        )
    });
}

/// A page of `inode` is about to be marked dirty.
#[inline(always)]
pub(crate) fn dirtied(inode: Inode, place: Place, change: Change) {
    advance(inode, place, change, |word, inode, own| {
        generation::dirtied(word, inode.mapping(), own)
    });
}

/// The inode is being synced, or was written back.
#[inline(always)]
pub(crate) fn synced(inode: Inode) {
    let Some(entry) = INODES.get_ptr_mut(inode.address()) else {
        return;
    };
    for _ in 0..ATTEMPTS {
        // SAFETY: the pointer comes from the map.
        let word = Word(unsafe { core::ptr::read_volatile(&raw const (*entry).word) });
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
fn advance(inode: Inode, place: Place, change: Change, step: impl Fn(Word, Inode, bool) -> Step) {
    if !inode.is_tracked_kind() {
        return;
    }
    let entry = find(inode);
    // SAFETY: `entry` is null or comes from the map.
    if !unsafe { is_inside(entry, inode, place) } {
        return;
    }
    if entry.is_null() {
        return untracked(inode, place, change);
    }
    let mut own = false;
    for _ in 0..ATTEMPTS {
        // SAFETY: the pointer comes from the map.
        let word = Word(unsafe { core::ptr::read_volatile(&raw const (*entry).word) });
        let mut next = step(word, inode, own);
        if let Step::Announce(..) = next
            && is_own()
        {
            own = true;
            next = step(word, inode, own);
        }
        let (new, announcement) = match next {
            Step::Nothing => return,
            Step::Store(new) => (new, None),
            Step::Announce(new, announcement) => (new, Some(announcement)),
        };
        // SAFETY: the pointer comes from the map; `word` is an aligned u64.
        if !unsafe { compare_and_swap(&raw mut (*entry).word, word.0, new.0) } {
            continue;
        }
        if let Some(announcement) = announcement {
            announce(entry, inode, place, change, new, announcement);
        }
        return;
    }
    count(Count::Contended);
    untracked(inode, place, change);
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

#[inline(always)]
fn announce(
    entry: *mut TrackedInode,
    inode: Inode,
    place: Place,
    change: Change,
    word: Word,
    announcement: Announcement,
) {
    let flags = match announcement {
        Announcement::First => FLAG_PRE,
        Announcement::Echo => FLAG_PRE | FLAG_ECHO,
        Announcement::Retry => FLAG_RETRY,
        Announcement::Late => {
            count(Count::Late);
            0
        }
    };
    let generation = word.generation();
    // SAFETY: the pointer comes from the map.
    let born = unsafe { (*entry).born };
    let delivered = emit(&Announce {
        inode,
        place,
        change,
        generation,
        born,
        flags,
    });
    if delivered {
        count(Count::Delivered);
        if let Announcement::Retry = announcement {
            count(Count::Retried);
        }
    }
    for _ in 0..ATTEMPTS {
        // SAFETY: the pointer comes from the map.
        let word = Word(unsafe { core::ptr::read_volatile(&raw const (*entry).word) });
        let Step::Store(new) = generation::announced(word, generation, delivered) else {
            return;
        };
        // SAFETY: the pointer comes from the map; `word` is an aligned u64.
        if unsafe { compare_and_swap(&raw mut (*entry).word, word.0, new.0) } {
            // A generation is counted as lost once, however often its announcement fails.
            if !delivered && !matches!(announcement, Announcement::Retry) {
                count(Count::Lost);
            }
            return;
        }
    }
    count(Count::Contended);
}

/// Announces without keeping track: too often rather than too rarely.
#[inline(always)]
fn untracked(inode: Inode, place: Place, change: Change) {
    if is_own() {
        return;
    }
    count(Count::Untracked);
    let flags = FLAG_PRE | FLAG_UNTRACKED;
    let announce = Announce {
        inode,
        place,
        change,
        generation: 0,
        born: 0,
        flags,
    };
    count(if emit(&announce) {
        Count::Delivered
    } else {
        Count::Lost
    });
}

/// The running task is premod itself, and its changes are not asked for.
#[inline(always)]
fn is_own() -> bool {
    // SAFETY: no preconditions.
    let pid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    pid == setting!(own_pid) && setting!(include_own) == 0
}
