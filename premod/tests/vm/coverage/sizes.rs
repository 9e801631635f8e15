//! Changes of a file's size and blocks.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

use rustix::fs::{FallocateFlags, fallocate as rustix_fallocate};

use super::{BLOCK, BLOCKS, Change, Effect, Target, ways, writes};
use crate::{harness::Place, workload::Mapping};

ways! {
    "truncate" => truncate,
    "ftruncate" => ftruncate,
    "ftruncate to more" => ftruncate_to_more,
    "open with O_TRUNC" => o_trunc,
    "fallocate" => fallocate,
    "fallocate: keep size" => keep_size,
    "fallocate: punch hole" => punch_hole,
    "fallocate: zero range" => zero_range,
    "fallocate: collapse range" => collapse_range,
    "fallocate: insert range" => insert_range,
    "fallocate: unshare range" => unshare_range,
    "MADV_REMOVE" => madv_remove,
    "FICLONE" => ficlone,
    "FICLONERANGE" => ficlonerange,
    "FIDEDUPERANGE" => fideduperange,
}

const LENGTH: u64 = BLOCKS * BLOCK;

fn truncate(place: &Place) -> Result<Change, String> {
    let target = writes::target(place);
    let path = writes::c_path(&target.path);
    let change = Change::of(target, &["truncate"], move |n| {
        // SAFETY: a path that lives through the call.
        let result = unsafe { libc::truncate(path.as_ptr(), (LENGTH - 100 * (n + 1)) as i64) };
        assert_eq!(result, 0, "truncate: {}", io::Error::last_os_error());
    });
    Ok(change)
}

fn ftruncate(place: &Place) -> Result<Change, String> {
    let target = writes::target(place);
    let file = target.same();
    Ok(Change::of(target, &["truncate"], move |n| {
        file.set_len(LENGTH - 100 * (n + 1)).expect("ftruncate");
    }))
}

fn ftruncate_to_more(place: &Place) -> Result<Change, String> {
    let target = writes::target(place);
    let file = target.same();
    Ok(Change::of(target, &["truncate"], move |n| {
        file.set_len(LENGTH + 100 * (n + 1)).expect("ftruncate");
    }))
}

fn o_trunc(place: &Place) -> Result<Change, String> {
    let target = writes::target(place);
    let path = target.path.clone();
    let change = Change::of(target, &["truncate"], move |_| {
        let file = OpenOptions::new().write(true).truncate(true).open(&path);
        drop(file.expect("open"));
    });
    Ok(change.refilled())
}

fn fallocate(place: &Place) -> Result<Change, String> {
    with_mode(place, FallocateFlags::empty(), Effect::Changes, |n| {
        (LENGTH + n * BLOCK, BLOCK)
    })
}

fn keep_size(place: &Place) -> Result<Change, String> {
    with_mode(place, FallocateFlags::KEEP_SIZE, Effect::Keeps, |n| {
        (LENGTH + n * BLOCK, BLOCK)
    })
}

fn punch_hole(place: &Place) -> Result<Change, String> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    with_mode(place, mode, Effect::Changes, one_block)
}

fn zero_range(place: &Place) -> Result<Change, String> {
    with_mode(
        place,
        FallocateFlags::ZERO_RANGE,
        Effect::Changes,
        one_block,
    )
}

fn collapse_range(place: &Place) -> Result<Change, String> {
    with_mode(
        place,
        FallocateFlags::COLLAPSE_RANGE,
        Effect::Changes,
        |_| (0, BLOCK),
    )
}

fn insert_range(place: &Place) -> Result<Change, String> {
    with_mode(
        place,
        FallocateFlags::INSERT_RANGE,
        Effect::Changes,
        one_block,
    )
}

fn unshare_range(place: &Place) -> Result<Change, String> {
    with_mode(
        place,
        FallocateFlags::UNSHARE_RANGE,
        Effect::Keeps,
        one_block,
    )
}

fn one_block(n: u64) -> (u64, u64) {
    (writes::offset(n), BLOCK)
}

fn with_mode(
    place: &Place,
    mode: FallocateFlags,
    effect: Effect,
    range: fn(u64) -> (u64, u64),
) -> Result<Change, String> {
    let probe = Target::new(place.file("probe"));
    if rustix_fallocate(&probe.file, mode, 0, BLOCK) == Err(rustix::io::Errno::OPNOTSUPP) {
        return Err(format!("{} does not have this mode", place.filesystem));
    }
    let target = writes::target(place).with(effect);
    let file = target.same();
    Ok(Change::of(target, &["fallocate"], move |n| {
        let (offset, length) = range(n);
        rustix_fallocate(&file, mode, offset, length).expect("fallocate");
    }))
}

fn madv_remove(place: &Place) -> Result<Change, String> {
    let target = writes::target(place);
    let mapping = Mapping::shared(&target.file, LENGTH as usize);
    Ok(Change::of(target, &["fallocate"], move |n| {
        let address = mapping.at(writes::offset(n) as usize);
        // SAFETY: a page of our mapping, to which nobody has a reference.
        let result = unsafe { libc::madvise(address.cast(), BLOCK as usize, libc::MADV_REMOVE) };
        assert_eq!(result, 0, "madvise: {}", io::Error::last_os_error());
    }))
}

/// A second file with other bytes, or why there are no reflinks.
fn original(place: &Place, first: u8) -> Result<Target, String> {
    let original = Target::starting_with(place.file("original"), first);
    let probe = File::create(place.file("probe")).expect("a new file");
    match rustix::fs::ioctl_ficlone(&probe, &original.file) {
        Ok(()) => Ok(original),
        Err(_) => Err(format!("{} has no reflinks", place.filesystem)),
    }
}

fn ficlone(place: &Place) -> Result<Change, String> {
    let original = original(place, b'A')?;
    let target = writes::target(place);
    let file = target.same();
    let change = Change::of(target, &["clone"], move |_| {
        rustix::fs::ioctl_ficlone(&file, &original.file).expect("FICLONE");
    });
    Ok(change.refilled())
}

fn ficlonerange(place: &Place) -> Result<Change, String> {
    /// `struct file_clone_range` of linux/fs.h.
    #[repr(C)]
    struct Range {
        source: i64,
        source_offset: u64,
        length: u64,
        offset: u64,
    }
    /// `_IOW(0x94, 13, struct file_clone_range)`
    const FICLONERANGE: libc::c_ulong = 0x4020_940d;
    let original = original(place, b'A')?;
    let target = writes::target(place);
    let file = target.same();
    Ok(Change::of(target, &["clone"], move |n| {
        let range = Range {
            source: original.file.as_raw_fd().into(),
            source_offset: writes::offset(n),
            length: BLOCK,
            offset: writes::offset(n),
        };
        // SAFETY: the structure lives through the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), FICLONERANGE as _, &raw const range) };
        assert_eq!(result, 0, "FICLONERANGE: {}", io::Error::last_os_error());
    }))
}

fn fideduperange(place: &Place) -> Result<Change, String> {
    let original = original(place, b'a')?;
    let target = writes::target(place).with(Effect::None);
    let file = target.same();
    Ok(Change::of(target, &[], move |n| {
        dedupe(&original.file, &file, writes::offset(n));
    }))
}

/// Has the filesystem share a block of two files that are equal there.
pub(crate) fn dedupe(source: &File, target: &File, offset: u64) {
    /// `struct file_dedupe_range` of linux/fs.h with one `struct file_dedupe_range_info`.
    #[repr(C)]
    struct Range {
        source_offset: u64,
        length: u64,
        targets: u16,
        reserved: [u16; 3],
        target: i64,
        offset: u64,
        deduped: u64,
        status: i32,
        padding: u32,
    }
    /// `_IOWR(0x94, 54, struct file_dedupe_range)`
    const FIDEDUPERANGE: libc::c_ulong = 0xc018_9436;
    let mut range = Range {
        source_offset: offset,
        length: BLOCK,
        targets: 1,
        reserved: [0; 3],
        target: target.as_raw_fd().into(),
        offset,
        deduped: 0,
        status: 0,
        padding: 0,
    };
    // SAFETY: the structure lives through the call.
    let result = unsafe { libc::ioctl(source.as_raw_fd(), FIDEDUPERANGE as _, &raw mut range) };
    assert_eq!(result, 0, "FIDEDUPERANGE: {}", io::Error::last_os_error());
    assert_eq!(
        (range.status, range.deduped),
        (0, BLOCK),
        "not deduplicated"
    );
}
