//! Renames and links, which can bring files into the traced subtree or take them out of it.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::{fexit, kprobe, lsm, map},
    maps::{HashMap, LruHashMap},
    programs::{FExitContext, LsmContext, ProbeContext},
};
use premod_common::facts::Facts;

use crate::{
    arguments::{Arguments, entries, pointer},
    directories::RENAMES,
    kernel::{Inode, Task, cast, current_task, load, untyped},
    maps::{Count, count, setting},
    scope::{forget_verdict, forget_verdicts, link_switched, motion, search::leads_to_link},
};

const S_IFMT: u16 = 0o170_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFLNK: u16 = 0o120_000;

/// `include/uapi/linux/fs.h`.
const RENAME_EXCHANGE: u64 = 1 << 1;

/// The two dentries that a task is about to rename. Those of a rename that somebody else refuses stay until the task's next.
#[map]
static RENAMING: LruHashMap<Task, [u64; 2]> = LruHashMap::with_max_entries(4096, 0);

/// The same by the address of the `struct name_snapshot` that lives as long as the rename. Filesystems rename within a rename.
#[map]
static SNAPSHOTS: HashMap<u64, [u64; 2]> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// `inode_rename(struct inode *old_dir, struct dentry *old_dentry, struct inode *new_dir, struct dentry *new_dentry)`, 6.1 to
/// 7.x. Called within `vfs_rename`, before the move; of an exchange once for each of both.
#[lsm(hook = "inode_rename")]
fn lsm_inode_rename(ctx: LsmContext) -> i32 {
    let (old, new): (*const u8, *const u8) = (ctx.arg(1), ctx.arg(3));
    // SAFETY: the second argument is a dentry.
    unsafe { rename_begins(old) };
    note(old, new);
    ctx.arg(4)
}

/// As [`lsm_inode_rename`], where `bpf` is not among the active LSMs.
#[inline(always)]
fn rename(arguments: &impl Arguments) {
    let (old, new) = (
        pointer!(arguments, 1, type_dentry),
        pointer!(arguments, 3, type_dentry),
    );
    // SAFETY: the second argument and the fourth are dentries.
    unsafe {
        rename_begins(old);
        if arguments.number(4) & RENAME_EXCHANGE != 0 {
            rename_begins(new);
        }
    }
    note(old, new);
}

/// Notes what the task renames, for [`kprobe_rename_moves`].
#[inline(always)]
fn note(old: *const u8, new: *const u8) {
    let dentries = [untyped(old as u64), untyped(new as u64)];
    let _ = RENAMING.insert(current_task(), dentries, 0);
}

entries!("security_inode_rename": fentry_inode_rename, kprobe_inode_rename => rename);

/// # Safety
/// `dentry` is a `struct dentry` that the verifier knows.
#[inline(always)]
unsafe fn rename_begins(dentry: *const u8) {
    if dentry.is_null() {
        return;
    }
    // SAFETY: the offsets are those of d_inode in struct dentry, and of i_mode in struct inode.
    unsafe {
        let inode: *const u8 = load!(dentry, dentry_d_inode);
        if inode.is_null() {
            return;
        }
        if load!(inode, inode_i_mode: u16) & S_IFMT == S_IFDIR {
            motion::begins(dentry as u64);
        } else {
            motion::name_begins(dentry as u64);
            forget_verdict(Inode(inode));
        }
    }
}

/// `inode_link(struct dentry *old_dentry, struct inode *dir, struct dentry *new_dentry)`, 6.1 to 7.x. Attached only when PATHs
/// are traced. Called within `vfs_link`, before there is another link.
#[lsm(hook = "inode_link")]
fn lsm_inode_link(ctx: LsmContext) -> i32 {
    // SAFETY: the first argument and the third are dentries.
    unsafe { link_begins(ctx.arg(0), ctx.arg(2)) };
    ctx.arg(3)
}

/// As [`lsm_inode_link`], where `bpf` is not among the active LSMs.
#[inline(always)]
fn link(arguments: &impl Arguments) {
    // SAFETY: as above.
    unsafe {
        link_begins(
            pointer!(arguments, 0, type_dentry),
            pointer!(arguments, 2, type_dentry),
        );
    }
}

entries!("security_inode_link": fentry_inode_link, kprobe_inode_link => link);

/// # Safety
/// Both are a `struct dentry` that the verifier knows.
#[inline(always)]
unsafe fn link_begins(old: *const u8, new: *const u8) {
    if old.is_null() || new.is_null() {
        return;
    }
    motion::name_begins(new as u64);
    // SAFETY: the offset is that of d_inode in struct dentry.
    let inode: *const u8 = unsafe { load!(old, dentry_d_inode) };
    if !inode.is_null() {
        forget_verdict(Inode(inode));
    }
}

/// `vfs_rename(struct renamedata *rd)`, 6.1 to 7.x.
///
/// At the exit the new names are in place. A file's verdict is forgotten alone; a directory's move
/// concerns everything below it, and the paths that user space has been told.
#[fexit(function = "vfs_rename")]
fn vfs_rename(ctx: FExitContext) -> i32 {
    renamed(&ctx)
}

/// `take_dentry_name_snapshot(struct name_snapshot *name, struct dentry *dentry)`, 6.1 to 7.x: what `vfs_rename` does when
/// nobody has refused it. Others call it, too, who rename nothing.
#[kprobe(function = "take_dentry_name_snapshot")]
fn kprobe_rename_moves(ctx: ProbeContext) -> u32 {
    // SAFETY: nobody else changes this task's.
    let Some(dentries) = (unsafe { RENAMING.get(current_task()) }).copied() else {
        return 0;
    };
    if dentries.contains(&ctx.number(1)) {
        let _ = RENAMING.remove(current_task());
        if SNAPSHOTS.insert(ctx.number(0), dentries, 0).is_err() {
            count(Count::Lost);
        }
    }
    0
}

/// `release_dentry_name_snapshot(struct name_snapshot *name)`, 6.1 to 7.x: what `vfs_rename` does last, when the new names
/// are in place.
///
/// As `vfs_rename`'s exit, for kernels that may skip that.
#[kprobe(function = "release_dentry_name_snapshot")]
fn kprobe_rename_ends(ctx: ProbeContext) -> u32 {
    let snapshot = ctx.number(0);
    // SAFETY: the snapshot is this task's.
    let Some([old, new]) = (unsafe { SNAPSHOTS.get(snapshot) }).copied() else {
        return 0;
    };
    let _ = SNAPSHOTS.remove(snapshot);
    // SAFETY: both are dentries, which the caller of `vfs_rename` holds.
    unsafe {
        forget(cast::<{ offset_of!(Facts, type_dentry) }>(old));
        forget(cast::<{ offset_of!(Facts, type_dentry) }>(new));
    }
    0
}

/// `vfs_link(struct dentry *old_dentry, …)`, 6.1 to 7.x. Attached only when PATHs are traced.
///
/// A file that was outside by its only name may have become one inside. As long as it has two names its
/// verdict is found again each time; this is for the time when the old one is gone.
#[fexit(function = "vfs_link")]
fn vfs_link(ctx: FExitContext) -> i32 {
    linked(&ctx)
}

/// `vfs_symlink(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry, const char *oldname, …)`, 6.1 to 7.x.
/// Attached only when PATHs are traced.
///
/// A PATH may lead through the new link.
#[fexit(function = "vfs_symlink")]
fn vfs_symlink(ctx: FExitContext) -> i32 {
    symlinked(&ctx)
}

// The same once more, for kernels that may skip one.

#[fexit(function = "vfs_rename")]
fn vfs_rename_again(ctx: FExitContext) -> i32 {
    renamed(&ctx)
}

#[fexit(function = "vfs_link")]
fn vfs_link_again(ctx: FExitContext) -> i32 {
    linked(&ctx)
}

#[fexit(function = "vfs_symlink")]
fn vfs_symlink_again(ctx: FExitContext) -> i32 {
    symlinked(&ctx)
}

#[inline(always)]
fn renamed(ctx: &FExitContext) -> i32 {
    let renamed: *const u8 = ctx.arg(0);
    // SAFETY: the offsets are those of the two dentries in struct renamedata.
    unsafe {
        forget(load!(renamed, renamedata_old_dentry));
        forget(load!(renamed, renamedata_new_dentry));
    }
    0
}

#[inline(always)]
fn linked(ctx: &FExitContext) -> i32 {
    // SAFETY: the first argument is a dentry.
    unsafe { forget(ctx.arg(0)) };
    motion::name_ended(ctx.arg(3));
    0
}

#[inline(always)]
fn symlinked(ctx: &FExitContext) -> i32 {
    // SAFETY: the third argument is a dentry.
    unsafe { forget(ctx.arg(2)) };
    0
}

/// # Safety
/// `dentry` is a `struct dentry` that the verifier knows.
#[inline(always)]
unsafe fn forget(dentry: *const u8) {
    if dentry.is_null() {
        return;
    }
    // SAFETY: the offsets are those of d_inode in struct dentry, and of i_mode in struct inode.
    unsafe {
        let inode: *const u8 = load!(dentry, dentry_d_inode);
        if inode.is_null() {
            return;
        }
        let kind = load!(inode, inode_i_mode: u16) & S_IFMT;
        if setting!(scoped) != 0 && (kind == S_IFDIR || kind == S_IFLNK) {
            let parent: *const u8 = load!(dentry, dentry_d_parent);
            let directory: *const u8 = load!(parent, dentry_d_inode);
            let name: u64 = load!(dentry, dentry_d_name_name);
            if leads_to_link(untyped(directory as u64), untyped(name)) != 0 {
                link_switched();
            }
        }
        if kind == S_IFDIR {
            forget_verdicts();
            RENAMES.increase();
            motion::ended(dentry as u64);
        } else {
            forget_verdict(Inode(inode));
            motion::name_ended(dentry as u64);
        }
    }
}
