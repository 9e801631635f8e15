//! Whether a file has one name only, which then decides where it is, and goes on to.

use crate::{
    kernel::{peek, peek_u32},
    maps::fact,
};

/// Of an `rw_semaphore` that nobody holds these bits of its count are 0, whatever the kernel counts in it: who holds it and
/// who waits; with PREEMPT_RT, beside bit 31, which is set then, who reads.
const HELD: u32 = 0x7fff_ffff;

/// Whether this is the only name of the inode, and no name of it is being taken away.
///
/// Whoever takes a name away holds the lock of its directory from before there is one link less until the name has left
/// memory. So if there is one link, and the lock of this name's directory is free *after* that, and the name is there
/// *after* that, it is the one. On x86-64 loads stay in their order.
#[inline(always)]
pub(super) fn is_only_name(dentry: u64, inode: u64) -> bool {
    let links = peek_u32(inode + u64::from(fact!(inode_i_nlink)));
    let held = is_directory_held(dentry);
    peek(dentry + u64::from(fact!(dentry_d_inode))) == inode
        && links == 1
        && !held
        && peek(dentry + u64::from(fact!(dentry_d_hash_pprev))) != 0
}

/// Whether somebody holds the lock of the directory that this name is in.
#[inline(always)]
pub(super) fn is_directory_held(dentry: u64) -> bool {
    let parent = peek(dentry + u64::from(fact!(dentry_d_parent)));
    let directory = peek(parent + u64::from(fact!(dentry_d_inode)));
    peek_u32(directory + u64::from(fact!(inode_i_rwsem))) & HELD != 0
}

/// The first name of the inode that the kernel has in memory; 0 if there is none.
#[inline(always)]
pub(super) fn first_name(inode: u64) -> u64 {
    let alias = peek(inode + u64::from(fact!(inode_i_dentry_first)));
    if alias == 0 {
        return 0;
    }
    alias - u64::from(fact!(dentry_d_alias))
}
