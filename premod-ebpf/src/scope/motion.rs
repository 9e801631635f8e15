//! Directories that are being renamed: from before one moves until what was known of the places below it is void.
//!
//! The epoch begins at the exit of `vfs_rename`, so that a search which begins in it finds the new names. A directory has
//! moved before that, and the task that has moved it may lose its CPU in between; what is kept for the directories below
//! would be wrong for so long. So nothing that was found before a rename has begun is used after that, and nothing that is
//! found while one is under way is kept ([`super::parents`]).
//!
//! Renames that begin and renames that end are counted, each of them once, whoever sees it and however often: by the dentry
//! that moves, which is in one rename at a time, and by the task that renames it. A rename that is refused before anybody was
//! told has no end, either. If an end is not seen, both counts differ until the same dentry is renamed again: for so long
//! nothing is kept, and nothing is missed.
//!
//! Files get names in the same way, by a rename or a link: what was kept for the file is void from before that, and nothing is
//! kept while some file's name is being made ([`names_are_settled`]). Others' verdicts have nothing to do with it.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::HashMap};

use crate::{
    directories::revalidates,
    kernel::{Task, current_task},
    latch::Latch,
};

/// Dentries of the directories that are being renamed, and by whom.
#[map]
static MOVING: HashMap<u64, Task> = HashMap::with_max_entries(1024, 0);

/// Names by which files are being renamed, or linked to, and by whom.
#[map]
static NAMING: HashMap<u64, Task> = HashMap::with_max_entries(1024, 0);

static BEGUN: Latch = Latch::new();
static ENDED: Latch = Latch::new();
static NAMES_BEGUN: Latch = Latch::new();
static NAMES_ENDED: Latch = Latch::new();

const EEXIST: i64 = 17;

/// The directory with this dentry is about to be renamed. Where others rename directories, too, nothing is kept anyhow; and
/// whoever serves a filesystem himself could make a rename last for as long as he likes.
#[inline(always)]
pub(crate) fn begins(dentry: u64) {
    if revalidates(dentry) {
        return;
    }
    // Without room its end is not known either.
    if !is_noted(&MOVING, dentry) {
        BEGUN.increase();
    }
}

/// A file is about to be renamed from this name, or to be given it.
#[inline(always)]
pub(crate) fn name_begins(dentry: u64) {
    if !revalidates(dentry) && !is_noted(&NAMING, dentry) {
        NAMES_BEGUN.increase();
    }
}

/// The file has been given its name, or was not. What was known of it before is void already.
#[inline(always)]
pub(crate) fn name_ended(dentry: u64) {
    if is_forgotten(&NAMING, dentry) {
        NAMES_ENDED.increase();
    }
}

/// Whether no file is being given a name: what is found out from here on may be kept, unless it is made void.
#[inline(always)]
pub(super) fn names_are_settled() -> bool {
    let ended = NAMES_ENDED.get();
    NAMES_BEGUN.get() == ended
}

/// Notes that this task renames the dentry; whether it was noted before, because an end was not seen.
#[inline(always)]
fn is_noted(map: &HashMap<u64, Task>, dentry: u64) -> bool {
    let task = current_task();
    let noted = map.insert(dentry, task, u64::from(BPF_NOEXIST)) == Err((-EEXIST) as _);
    if noted {
        let _ = map.insert(dentry, task, 0);
    }
    noted
}

/// Whether this task has renamed the dentry, which is noted no more.
#[inline(always)]
fn is_forgotten(map: &HashMap<u64, Task>, dentry: u64) -> bool {
    // SAFETY: nobody but this task removes what it has noted.
    let task = unsafe { map.get(dentry) }.copied();
    task == Some(current_task()) && map.remove(dentry).is_ok()
}

/// The directory with this dentry has been renamed, or was not. What was known before is void already.
#[inline(always)]
pub(crate) fn ended(dentry: u64) {
    if is_forgotten(&MOVING, dentry) {
        ENDED.increase();
    }
}

/// How many renames of directories have begun.
#[inline(always)]
pub(super) fn begun() -> u64 {
    BEGUN.get()
}

/// How many have ended. If as many had begun before, and no other has when what is found from here on is used, none has been
/// under way.
#[inline(always)]
pub(super) fn over() -> u64 {
    ENDED.get()
}
