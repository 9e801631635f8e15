//! The kernel side of the generation protocol: finds the inode's word, asks premod-common what follows,
//! swaps the word and announces.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::bpf_ktime_get_ns,
    programs::{BtfTracePointContext, FEntryContext, LsmContext},
};
use premod_common::{
    event::{FLAG_PRE, FLAG_RETRY, FLAG_UNTRACKED},
    generation::{self, Announcement, Step, Word},
    inode::{TrackedInode, Verdict, identity},
};

use crate::{
    atomic::compare_and_swap,
    emit::{Change, announce},
    kernel::{Inode, Place, current_process, read, untyped},
    maintenance::moves_data,
    maps::{Count, INODES, LAST_SYNC, SYNCED, count, fact, setting},
    protocol::{self, How},
    quiet::{self, Quiet},
    scope::{Whereabouts, is_outside_with_directory, whereabouts},
};

/// Attempts at a compare-and-swap before a touch announces without it.
pub(crate) const ATTEMPTS: u32 = 4;

/// A hook says that the data of `inode` is about to be modified.
#[inline(always)]
pub(crate) fn touch(program: &impl Advances, inode: Inode, place: Place, change: Change) {
    if !is_quiet(inode, change.unpaged, || place.mount) {
        touch_noisy(program, inode, place, change);
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
pub(crate) fn touch_noisy(program: &impl Advances, inode: Inode, place: Place, change: Change) {
    program.advance(inode, place, change, How::touch(change.unpaged));
}

/// As [`touch`], by a hook on a single page of a change that has been announced by another hook, or of what changes no
/// byte.
#[inline(always)]
pub(crate) fn touch_page(inode: Inode, change: Change) {
    if !is_quiet(inode, change.unpaged, || 0) {
        advance(inode, Place::unknown(), change, How::page());
    }
}

/// A page of `inode` is about to be marked dirty.
#[inline(always)]
pub(crate) fn dirtied(program: &impl Advances, inode: Inode, place: Place, change: Change) {
    if quiet::look(inode, || place.mount) == Quiet::Outside {
        return;
    }
    program.advance(inode, place, change, How::dirtied());
}

/// The inode is being synced.
#[inline(always)]
pub(crate) fn synced(inode: Inode) {
    swap(inode, generation::synced);
}

/// The inode was synced, and its mapping has the dirty mark all the same.
#[inline(always)]
pub(crate) fn doubted(inode: Inode) {
    swap(inode, generation::doubted);
    // After the swap: a look at the mark alone would find it dirty, and announced.
    quiet::forget(inode.address());
}

/// Swaps the word of an inode that is tracked.
#[inline(always)]
fn swap(inode: Inode, step: impl Fn(Word) -> Step) {
    let Some(entry) = INODES.get_ptr_mut(inode.address()) else {
        return;
    };
    for _ in 0..ATTEMPTS {
        // SAFETY: the pointer comes from the map.
        let word = Word(unsafe { read_volatile(&raw const (*entry).word) });
        let Step::Store(new) = step(word) else {
            return;
        };
        // SAFETY: the pointer comes from the map; `word` is an aligned u64.
        if unsafe { compare_and_swap(&raw mut (*entry).word, word.0, new.0) } {
            return;
        }
    }
}

/// A program that goes on with an inode that is not quiet.
pub(crate) trait Advances {
    /// Finds the inode's word, swaps it, and announces what has to be announced.
    fn advance(&self, inode: Inode, place: Place, change: Change, how: How);
}

/// Programs that do so themselves.
macro_rules! advance_here {
    ($($context:ty),*) => {$(
        impl Advances for $context {
            #[inline(always)]
            fn advance(&self, inode: Inode, place: Place, change: Change, how: How) {
                advance(inode, place, change, how);
            }
        }
    )*};
}

advance_here!(FEntryContext, BtfTracePointContext, LsmContext);

#[inline(always)]
pub(crate) fn advance(inode: Inode, place: Place, change: Change, how: How) {
    if !inode.is_tracked_kind() {
        return;
    }
    let Some(entry) = find(inode, place) else {
        return;
    };
    // SAFETY: `entry` is null or comes from the map.
    let found = unsafe { whereabouts(entry, inode, place) };
    if found.is_outside() {
        return;
    }
    let outcome = decide(entry, inode, how);
    if outcome.has_to_be_announced() {
        announce(inode, place, change, entry, outcome.found(found));
    }
}

/// What a touch comes to, as one number: the generation, and the `FLAG_…` bits of its announcement or one of the two
/// below.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome(u64);

const OVERTAKEN: u64 = 1 << 9;
const GENERATION_SHIFT: u32 = 10;

impl Outcome {
    /// Nothing has to be announced.
    const SILENT: Self = Self(1 << 8);

    /// Another task was faster: look again.
    const OVERTAKEN: Self = Self(OVERTAKEN);

    #[inline(always)]
    const fn was_overtaken(self) -> bool {
        self.0 & OVERTAKEN != 0
    }

    #[inline(always)]
    const fn announce(generation: u64, flags: u8) -> Self {
        Self(generation << GENERATION_SHIFT | flags as u64)
    }

    #[inline(always)]
    fn has_to_be_announced(self) -> bool {
        self != Self::SILENT
    }

    /// With what is to be said of where the inode is.
    #[inline(always)]
    const fn found(self, whereabouts: Whereabouts) -> Self {
        Self(self.0 | whereabouts.flags() as u64)
    }

    #[inline(always)]
    pub(crate) const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }

    #[inline(always)]
    pub(crate) const fn flags(self) -> u8 {
        self.0 as u8
    }
}

/// Swaps the inode's word, and says what has to be announced.
#[inline(always)]
fn decide(entry: *mut TrackedInode, inode: Inode, how: How) -> Outcome {
    if !entry.is_null() {
        for _ in 0..ATTEMPTS {
            // The word first: whoever marks a page dirty changes the word after the mark.
            // SAFETY: the pointer comes from the map.
            let word = unsafe { read_volatile(&raw const (*entry).word) };
            let marked = how.with_dirty(inode.dirty_mark());
            let outcome = Outcome(attempt(entry, word, marked.0, untyped(inode.address())));
            if !outcome.was_overtaken() {
                return outcome;
            }
        }
        count(Count::Contended);
    }
    // Announced without keeping track: too often rather than too rarely.
    if is_of_no_consequence(how, untyped(inode.address())) {
        return Outcome::SILENT;
    }
    count(Count::Untracked);
    // The net sees pages of changes that may have begun.
    let before = if how.is_dirtied() { 0 } else { FLAG_PRE };
    Outcome::announce(0, before | FLAG_UNTRACKED)
}

/// One attempt to swap the word that was read: an [`Outcome`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn attempt(entry: *mut TrackedInode, word: u64, how: u64, inode: u64) -> u64 {
    if entry.is_null() {
        return OVERTAKEN;
    }
    let (word, mut how) = (Word(word), How(how));
    if !how.is_dirty() && word.age_matters() && has_aged(entry, inode) {
        how = how.aged();
    }
    let mut next = protocol::step(word, how);
    if let Step::Announce(..) = next
        && is_of_no_consequence(how, inode)
    {
        how = how.own();
        next = protocol::step(word, how);
        if next == Step::Nothing {
            return Outcome::SILENT.0;
        }
    }
    let (new, outcome) = match next {
        Step::Nothing => {
            if how.is_dirty() && word.silent_while_dirty() {
                // SAFETY: the pointer comes from the map.
                unsafe {
                    let verdict = read_volatile(&raw const (*entry).verdict);
                    quiet::learn(inode, None, entry, (word.0, verdict));
                }
            }
            return Outcome::SILENT.0;
        }
        Step::Store(new) => (new, Outcome::SILENT),
        Step::Announce(new, announcement) => (
            new,
            Outcome::announce(new.generation(), flags_of(announcement)),
        ),
    };
    // Before the swap: a sync of what another task announces and changes in between counts.
    let now = if outcome.has_to_be_announced() {
        // SAFETY: no preconditions.
        unsafe { bpf_ktime_get_ns() }
    } else {
        0
    };
    // SAFETY: the pointer comes from the map; `word` is an aligned u64.
    if !unsafe { compare_and_swap(&raw mut (*entry).word, word.0, new.0) } {
        return Outcome::OVERTAKEN.0;
    }
    quiet::forget(inode);
    if outcome.has_to_be_announced() {
        // Before the event goes out, so that a sync that the event's reader asks for counts.
        // SAFETY: the pointer comes from the map.
        unsafe { write_volatile(&raw mut (*entry).announced, now) };
    }
    outcome.0
}

#[inline(always)]
const fn flags_of(announcement: Announcement) -> u8 {
    match announcement {
        Announcement::First | Announcement::Echo => FLAG_PRE,
        Announcement::Retry => FLAG_RETRY,
        Announcement::Late => 0,
    }
}

/// Whether what was announced last is on disk by now, if pages do not tell: [`Mapping::aged`].
///
/// [`Mapping::aged`]: premod_common::generation::Mapping::aged
#[inline(always)]
fn has_aged(entry: *mut TrackedInode, inode: u64) -> bool {
    // SAFETY: the pointer comes from the map.
    let announced = unsafe { read_volatile(&raw const (*entry).announced) };
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    now.wrapping_sub(announced) > setting!(period)
        || LAST_SYNC.get() > announced && synced_at(inode) > announced
}

/// When the filesystem of the inode at this address was last synced as a whole.
#[inline(always)]
fn synced_at(inode: u64) -> u64 {
    let superblock = read(inode + u64::from(fact!(inode_i_sb)));
    // SAFETY: a shared reference into a map value; the kernel may change it, but it is a plain number.
    unsafe { SYNCED.get(superblock) }.copied().unwrap_or(0)
}

/// Makes an entry like a fresh one.
///
/// # Safety
/// `entry` comes from the inode map.
#[inline(always)]
unsafe fn renew(entry: *mut TrackedInode, identity: u64) {
    // SAFETY: the pointer comes from the map; all fields are aligned u64. The identity is the last: who finds it finds
    // the rest.
    unsafe {
        write_volatile(&raw mut (*entry).word, Word::default().0);
        write_volatile(&raw mut (*entry).verdict, Verdict::OPEN.0);
        write_volatile(&raw mut (*entry).born, bpf_ktime_get_ns());
        write_volatile(&raw mut (*entry).identity, identity);
    }
}

/// The inode's entry, made if there is none; null if there is no room. [`None`] if it needs none: it is outside.
#[inline(always)]
fn find(inode: Inode, place: Place) -> Option<*mut TrackedInode> {
    let identity = identity(inode.number(), inode.generation());
    if let Some(entry) = INODES.get_ptr_mut(inode.address()) {
        // SAFETY: the pointer comes from the map.
        if unsafe { (*entry).identity } == identity {
            return Some(entry);
        }
        // The inode has been given another generation number (EXT4_IOC_SWAP_BOOT, FS_IOC_SETVERSION); or another inode took
        // the memory, and its predecessor's end was not seen. The entry is not removed: another CPU may be about to swap
        // its word, which would then be that of whichever inode has been given the entry's memory.
        // SAFETY: as above.
        unsafe { renew(entry, identity) };
        quiet::forget(inode.address());
        // Found once more below, so that the verifier does not follow this way through all that comes after.
    } else if setting!(scoped) != 0
        && place.mount != 0
        && is_outside_with_directory(
            untyped(inode.address()),
            untyped(place.dentry),
            untyped(place.mount),
        ) != 0
    {
        return None;
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
    let entry = INODES.get_ptr_mut(inode.address());
    Some(entry.unwrap_or(core::ptr::null_mut()))
}

/// Nobody is to be told, and nobody else's change is to be hidden.
#[inline(always)]
fn is_of_no_consequence(how: How, inode: u64) -> bool {
    is_own() || how.is_of_a_page() && moves_data(inode)
}

/// The running task is premod itself, and its changes are not asked for.
#[inline(always)]
fn is_own() -> bool {
    current_process() == setting!(own_pid) && setting!(include_own) == 0
}
