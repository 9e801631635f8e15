//! Moments at which a change that left no dirty page reaches the disk.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

use crate::{
    arguments::{Arguments, entries, pointer},
    kernel::File,
    maintenance::BTRFS,
    maps::{LAST_SYNC, SYNCED},
    touch::{doubted, synced},
};

// `vfs_fsync_range(struct file *file, loff_t start, loff_t end, int datasync)`, 6.1 to 7.x: fsync,
// fdatasync, msync, `O_SYNC`, nfsd's commit. On 7.3 the compiler has put it into its callers, so that
// fsync does not come by; the two below see it there.
entries!("vfs_fsync_range": vfs_fsync_range, kprobe_vfs_fsync_range => fsync);

// `file_write_and_wait_range(struct file *file, loff_t start, loff_t end)`, 6.1 to 7.x: what ext4, xfs and
// most other filesystems do first in an fsync.
entries!("file_write_and_wait_range": file_write_and_wait_range, kprobe_file_write_and_wait_range => fsync);

// `file_check_and_advance_wb_err(struct file *file)`, 6.1 to 7.x: what btrfs, which does not call the
// above, does last in an fsync.
entries!("file_check_and_advance_wb_err": file_check_and_advance_wb_err, kprobe_file_check_and_advance_wb_err => fsync_ends);

/// `sync_inodes_sb(struct super_block *sb)`, 6.1 to 7.x: sync, syncfs, freezing, remounting read-only.
///
/// The tracepoint `writeback_single_inode` would not do: on xfs and btrfs a truncate does not make the
/// VFS's inode dirty, so that it never fires for it.
#[inline(always)]
fn sync(arguments: &impl Arguments) {
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // First: who sees no sync at all does not look for that of the filesystem.
    LAST_SYNC.raise(now);
    let _ = SYNCED.insert(arguments.number(0), now, 0);
}

entries!("sync_inodes_sb": sync_inodes_sb, kprobe_sync_inodes_sb => sync);

/// btrfs leaves dirty marks behind: on 7.3 a file that nobody uses may have them after an fsync (cachestat tells), so that
/// they say nothing about what comes. Of the other filesystems that has not been seen, and they come by before they wait.
#[inline(always)]
fn fsync_ends(arguments: &impl Arguments) {
    let inode = File(pointer!(arguments, 0, type_file)).inode();
    synced(inode);
    if inode.is_dirty() && inode.superblock().magic() == BTRFS {
        doubted(inode);
    }
}

#[inline(always)]
fn fsync(arguments: &impl Arguments) {
    synced(File(pointer!(arguments, 0, type_file)).inode());
}
