//! Whether an inode lies below one of the PATHs that are traced.
//!
//! The verdict is found by walking up ([`search`]), and kept in the inode's entry together with the mount and the
//! epoch that it holds for; and for the directory ([`parents`]), so that the next new file in it need not go the same way.
//! What could not be decided counts as below, and is not kept.

pub(crate) mod motion;
mod name;
pub(crate) mod parents;
pub(crate) mod search;

use core::ptr::{read_volatile, write_volatile};

use premod_common::{
    event::FLAG_UNDECIDED,
    inode::{TrackedInode, Verdict},
};

use self::{
    name::{first_name, is_only_name},
    search::search,
};
use crate::{
    atomic::{compare_and_swap, exchange, or},
    kernel::{Inode, Place, peek, peek_u32, untyped},
    maps::{Count, INODES, LINKS_FOLLOWED, LINKS_SWITCHED, SCOPE_EPOCH, count, fact, setting},
    quiet,
};

/// Where an inode is, as a number of which the verifier need not know anything.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Whereabouts(u64);

impl Whereabouts {
    const OUTSIDE: Self = Self(0);
    const INSIDE: Self = Self(1 << 0);
    /// Nobody knows: an event too many is better than one too few.
    const UNDECIDED: Self = Self(FLAG_UNDECIDED as u64);
    /// Names or mounts changed during the search. Never returned to a hook.
    const CHANGED: Self = Self(1 << 8);
    /// Added to any of these: others may move what is on the way, and nobody is told. Never returned to a hook.
    const MOVABLE: u64 = 1 << 9;

    #[inline(always)]
    pub(crate) const fn is_outside(self) -> bool {
        self.0 == Self::OUTSIDE.0
    }

    /// The `FLAG_…` bits that say how sure this is.
    #[inline(always)]
    pub(crate) const fn flags(self) -> u8 {
        self.0 as u8 & FLAG_UNDECIDED
    }
}

/// Whether the inode is traced. `entry` is its entry, where the verdict is kept; null if there is none.
///
/// # Safety
/// `entry` is null or comes from the inode map, and is that of `inode`.
#[inline(always)]
pub(crate) unsafe fn whereabouts(
    entry: *mut TrackedInode,
    inode: Inode,
    place: Place,
) -> Whereabouts {
    if setting!(scoped) == 0 {
        return Whereabouts::INSIDE;
    }
    if !entry.is_null() {
        let epoch = SCOPE_EPOCH.get();
        // SAFETY: the caller vouches for `entry`; the fields are aligned u64.
        unsafe {
            let kept = Verdict(read_volatile(&raw const (*entry).verdict));
            if kept.is_of(epoch) {
                let mount = read_volatile(&raw const (*entry).mount);
                // Without a mount, the verdict found through any mount is the best there is.
                let same_mount = mount == place.mount || place.mount == 0;
                // A file that is outside by one name may be inside by another.
                let same_name = kept.inside() || !inode.has_links();
                if same_mount && same_name && read_volatile(&raw const (*entry).verdict) == kept.0 {
                    if !kept.inside() && mount == place.mount {
                        let word = read_volatile(&raw const (*entry).word);
                        let through = (place.mount, epoch);
                        quiet::learn(inode.address(), Some(through), entry, (word, kept.0));
                    }
                    return if kept.inside() {
                        Whereabouts::INSIDE
                    } else {
                        Whereabouts::OUTSIDE
                    };
                }
            }
        }
    }
    Whereabouts(find_out(
        entry,
        untyped(inode.address()),
        untyped(place.dentry),
        untyped(place.mount),
    ))
}

/// Makes the kept verdict of one inode void, and the one that is being found out.
#[inline(always)]
pub(crate) fn forget_verdict(inode: Inode) {
    if let Some(entry) = INODES.get_ptr_mut(inode.address()) {
        // SAFETY: the pointer comes from the map; `verdict` is an aligned u64.
        unsafe { or(&raw mut (*entry).verdict, Verdict::FORGOTTEN) };
    }
    quiet::spoil(inode.address());
}

/// Whether the inode is outside as all of its directory is: 1 or 0. It needs no entry then, and is quiet.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_outside_with_directory(inode: u64, dentry: u64, mount: u64) -> u64 {
    if !parents::may_be_outside(dentry) {
        return 0;
    }
    // Before anything else: what changes from here on spoils it.
    let claimed = quiet::claim(inode);
    let settled = motion::names_are_settled();
    let epoch = SCOPE_EPOCH.get();
    let found = parents::ask(inode, dentry, mount, epoch);
    let outside = found == Whereabouts::OUTSIDE.0 && holds(found, epoch);
    if claimed {
        if outside && settled {
            quiet::fill_outside(inode, mount, epoch);
        } else {
            quiet::fill_not(inode);
        }
    }
    outside.into()
}

/// Makes every kept verdict void, and tells user space that there is something to look at.
#[inline(always)]
pub(crate) fn forget_verdicts() {
    SCOPE_EPOCH.increase();
    count(Count::Moves);
}

/// A name by which a symbolic link is reached was given to something else: what is outside is not known until user space
/// has followed the link.
#[inline(always)]
pub(crate) fn link_switched() {
    LINKS_SWITCHED.increase();
    count(Count::Switches);
    forget_verdicts();
}

/// Whether what a search has found is true that began in this epoch. Directories that are renamed one after the other may
/// have been met where they were together at no time, and what user space says of the PATHs may have changed in between.
#[inline(always)]
fn holds(found: u64, epoch: u64) -> bool {
    if found == Whereabouts::OUTSIDE.0 {
        LINKS_SWITCHED.get() == LINKS_FOLLOWED.get() && SCOPE_EPOCH.get() == epoch
    } else {
        found != Whereabouts::CHANGED.0
    }
}

/// Finds it out, and keeps the verdict: [`Whereabouts`] as a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_out(entry: *mut TrackedInode, inode: u64, dentry: u64, mount: u64) -> u64 {
    let mut keeps = false;
    if !entry.is_null() {
        // SAFETY: the pointer comes from the map; `verdict` is an aligned u64.
        unsafe {
            let before = Verdict(read_volatile(&raw const (*entry).verdict));
            keeps = !before.is_busy()
                && compare_and_swap(&raw mut (*entry).verdict, before.0, Verdict::BUSY.0);
        }
    }
    // After the entry has become busy: a name that begins to change from here on makes void what is found.
    let settled = motion::names_are_settled();
    let mut epoch = SCOPE_EPOCH.get();
    let mut found = parents::find_out(inode, dentry, mount, epoch);
    if !holds(found, epoch) {
        epoch = SCOPE_EPOCH.get();
        found = search(inode, dentry, mount) & !Whereabouts::MOVABLE;
        if !holds(found, epoch) {
            found = Whereabouts::UNDECIDED.0;
        }
    }
    if keeps && !entry.is_null() {
        // SAFETY: as above. Nobody else writes the mount while the word is busy.
        unsafe {
            let word = &raw mut (*entry).verdict;
            write_volatile(&raw mut (*entry).mount, mount);
            let verdict = Verdict::new(epoch, found == Whereabouts::INSIDE.0).0;
            let decided = found == Whereabouts::INSIDE.0
                || found != Whereabouts::UNDECIDED.0 && settled && stays(inode, dentry);
            if !decided || !compare_and_swap(word, Verdict::BUSY.0, verdict) {
                exchange(word, Verdict::OPEN.0);
            }
        }
    }
    found
}

/// Whether a file that was found outside is so for as long as nobody gives it a name. Another name than those in memory may be
/// inside, and be the only one soon.
#[inline(always)]
fn stays(inode: u64, dentry: u64) -> bool {
    let links = peek_u32(inode + u64::from(fact!(inode_i_nlink)));
    let named = dentry != 0 && peek(dentry + u64::from(fact!(dentry_d_inode))) == inode;
    let name = if named { dentry } else { first_name(inode) };
    links == 0 || name != 0 && is_only_name(name, inode)
}
