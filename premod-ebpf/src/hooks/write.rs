//! The write family.

use premod_common::event::Op;

use crate::{
    arguments::{Arguments, entries, pointer},
    emit::Change,
    kernel::{File, Inode, Place, load},
    maps::fact,
    touch::{Advances, is_quiet, synced, touch, touch_noisy},
};

/// `generic_write_checks(struct kiocb *iocb, struct iov_iter *from)`, 6.1 to 7.x.
///
/// The last hook that all filesystems have in common before the data is copied, under the inode lock. It sees
/// the loop device and nfsd too, and costs those who read nothing, unlike `security_file_permission`.
#[inline(always)]
fn write(arguments: &impl Arguments) {
    let iocb = pointer!(arguments, 0, type_kiocb);
    let file = file_of(iocb);
    // Direct writes to a file that is quiet because it is dirty are left to the hook on `kiocb_invalidate_pages`:
    // to look at the file's flags here would cost every write.
    if !is_quiet(file.inode(), false, || file.place().mount) {
        checked_with_length(arguments, iocb, pointer!(arguments, 1, type_iov_iter));
    }
}

entries!("generic_write_checks": generic_write_checks, kprobe_generic_write_checks => write);

/// Out of line, so that the way of a quiet file stays short.
#[inline(never)]
fn checked_with_length(program: &impl Advances, iocb: *const u8, from: *const u8) -> i32 {
    // Where the last look at a direct write does not know the call: what was written before in this way is on disk.
    if fact!(iomap_is_old) != 0 && file_of(iocb).is_direct() && is_synced_by_itself(iocb) {
        synced(file_of(iocb).inode());
    }
    // SAFETY: the offset is that of count in struct iov_iter.
    let length = unsafe { load!(from, iov_iter_count) };
    checked(program, iocb, Some(length));
    0
}

/// `generic_write_checks_count(struct kiocb *iocb, loff_t *count)`, 6.1 to 7.x: the same for btrfs's encoded
/// writes. The function above has it inlined, so that other writes do not come by.
#[inline(always)]
fn encoded_write(arguments: &impl Arguments) {
    checked(arguments, pointer!(arguments, 0, type_kiocb), None);
}

entries!("generic_write_checks_count": generic_write_checks_count, kprobe_generic_write_checks_count => encoded_write);

/// `kiocb_invalidate_pages(struct kiocb *iocb, size_t count)`, 6.5 to 7.x: the page cache makes way for a direct
/// write. The last look for those, and the only one while the file has a dirty page that was announced: pages, which
/// are one for all other writes, they do not have.
#[inline(always)]
fn direct_write(arguments: &impl Arguments) {
    let iocb = pointer!(arguments, 0, type_kiocb);
    checked(arguments, iocb, Some(arguments.number(1)));
    if is_synced_by_itself(iocb) {
        synced(file_of(iocb).inode());
    }
}

/// `IOCB_DSYNC` of linux/fs.h, which is `RWF_DSYNC`: the file was opened with `O_DSYNC` or `O_SYNC`, or the call asks
/// for the same.
const IOCB_DSYNC: u32 = 2;

/// The write is on disk when it returns. Where the disk writes through, the filesystem syncs nothing for that.
#[inline(always)]
fn is_synced_by_itself(iocb: *const u8) -> bool {
    // SAFETY: the offset is that of ki_flags in struct kiocb.
    let flags: u32 = unsafe { load!(iocb, kiocb_ki_flags) };
    flags & IOCB_DSYNC != 0
}

entries!("kiocb_invalidate_pages": kiocb_invalidate_pages, kprobe_kiocb_invalidate_pages => direct_write);

/// `invalidate_inode_pages2_range(struct address_space *mapping, pgoff_t start, pgoff_t end)`, 6.1 to 7.x: called by the
/// above, and before 6.5 in its place. It is called once more when the write is done: if the file was synced
/// just then, that is an event too many.
#[inline(always)]
fn direct_write_to_mapping(arguments: &impl Arguments) {
    let mapping = pointer!(arguments, 0, type_address_space);
    if mapping.is_null() {
        return;
    }
    // SAFETY: the function's argument, which is not null.
    let Some(inode) = (unsafe { Inode::of_mapping(mapping) }) else {
        return;
    };
    let change = Change {
        op: Op::Write as u8,
        unpaged: true,
        range: None,
    };
    touch(arguments, inode, Place::unknown(), change);
}

entries!("invalidate_inode_pages2_range": invalidate_inode_pages2_range, kprobe_invalidate_inode_pages2_range => direct_write_to_mapping);

#[inline(always)]
fn file_of(iocb: *const u8) -> File {
    // SAFETY: the offset is that of ki_filp in struct kiocb.
    File(unsafe { load!(iocb, kiocb_ki_filp) })
}

#[inline(always)]
fn checked(program: &impl Advances, iocb: *const u8, length: Option<u64>) {
    let file = file_of(iocb);
    // SAFETY: the offset is that of ki_pos in struct kiocb.
    let position: u64 = unsafe { load!(iocb, kiocb_ki_pos) };
    let change = Change {
        op: Op::Write as u8,
        // An encoded write puts its blocks below the page cache.
        unpaged: length.is_none() || file.is_direct(),
        range: length.map(|length| (position, length)),
    };
    touch_noisy(program, file.inode(), file.place(), change);
}
