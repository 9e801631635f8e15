//! ioctls of single filesystems that change data.

use std::{
    fs::File,
    io,
    mem::zeroed,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
};

use super::{BLOCK, BLOCKS, Change, Effect, Target, dax, ways, writes};
use crate::harness::Place;

ways! {
    "EXT4_IOC_MOVE_EXT (both files)" => move_extents,
    "EXT4_IOC_SWAP_BOOT" => swap_boot,
    "XFS_IOC_SWAPEXT (both files)" => swap_extents,
    "XFS_IOC_EXCHANGE_RANGE (both files)" => exchange_range,
    "BTRFS_IOC_ENCODED_WRITE" => encoded_write,
}

fn only_on(filesystem: &str, place: &Place) -> Result<(), String> {
    if place.filesystem == filesystem {
        Ok(())
    } else {
        Err(format!("an ioctl of {filesystem}"))
    }
}

/// Calls an ioctl that must succeed.
fn ioctl<T>(file: &File, request: u32, argument: &mut T) -> io::Result<()> {
    let argument: *mut T = argument;
    // SAFETY: the argument is the structure that the request asks for, and lives through the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn move_extents(place: &Place) -> Result<Change, String> {
    /// `struct move_extent` of fs/ext4/ext4.h, in blocks.
    #[repr(C)]
    struct MoveExtent {
        reserved: u32,
        donor: u32,
        start: u64,
        donor_start: u64,
        length: u64,
        moved: u64,
    }
    const EXT4_IOC_MOVE_EXT: u32 = 0xc028_660f;
    only_on("ext4", place)?;
    // The file keeps its bytes, in the donor's blocks. The donor gets the file's old blocks.
    let target = writes::target(place).with(Effect::Keeps);
    let donor = Target::starting_with(place.file("donor"), b'A');
    let (file, donor_file) = (target.same(), donor.same());
    let block = target.file.metadata().expect("fstat").blksize();
    let fs_block = rustix::fs::fstatvfs(&file).expect("fstatvfs").f_bsize;
    assert!(block >= fs_block && BLOCK % fs_block == 0, "{fs_block}");
    Ok(Change::of_all(vec![target, donor], &["ioctl"], move |n| {
        let start = writes::offset(n) / fs_block;
        let mut arguments = MoveExtent {
            reserved: 0,
            donor: donor_file.as_raw_fd() as u32,
            start,
            donor_start: start,
            length: BLOCK / fs_block,
            moved: 0,
        };
        ioctl(&file, EXT4_IOC_MOVE_EXT, &mut arguments).expect("EXT4_IOC_MOVE_EXT");
        assert_eq!(arguments.moved, BLOCK / fs_block);
        forget_pages(&donor_file);
    }))
}

/// Drops the clean pages of a file from memory: the kernel leaves the donor's as they were.
fn forget_pages(file: &File) {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
}

fn swap_boot(place: &Place) -> Result<Change, String> {
    const EXT4_IOC_SWAP_BOOT: u32 = 0x6611;
    only_on("ext4", place)?;
    let target = writes::target(place);
    let file = target.same();
    let change = Change::of(target, &["ioctl"], move |_| {
        ioctl(&file, EXT4_IOC_SWAP_BOOT, &mut 0_u64).expect("EXT4_IOC_SWAP_BOOT");
    });
    Ok(Change {
        repeats: Some(
            "every call is announced: it gives the file a new i_generation \
             (swap_inode_boot_loader), so that it is another file to premod",
        ),
        ..change
    })
}

fn swap_extents(place: &Place) -> Result<Change, String> {
    /// `struct xfs_fsop_bulkreq` of `xfs_fs.h`.
    #[repr(C)]
    struct BulkRequest {
        inode: *mut u64,
        count: i32,
        buffer: *mut u8,
        found: *mut i32,
    }
    /// `struct xfs_swapext`, with `struct xfs_bstat` as bytes.
    #[repr(C)]
    struct SwapExtents {
        version: i64,
        target: i64,
        temporary: i64,
        offset: i64,
        length: i64,
        padding: [u8; 16],
        stat: [u8; 136],
    }
    const XFS_IOC_FSBULKSTAT_SINGLE: u32 = 0xc020_5866;
    const XFS_IOC_SWAPEXT: u32 = 0xc0c0_586d;
    only_on("xfs", place)?;
    let target = writes::target(place);
    let other = Target::starting_with(place.file("other"), b'A');
    let (file, other_file) = (target.same(), other.same());
    Ok(Change::of_all(vec![target, other], &["ioctl"], move |_| {
        let mut arguments = SwapExtents {
            version: 0,
            target: file.as_raw_fd().into(),
            temporary: other_file.as_raw_fd().into(),
            offset: 0,
            length: (BLOCKS * BLOCK) as i64,
            padding: [0; 16],
            stat: [0; 136],
        };
        let (mut inode, mut found) = (file.metadata().expect("fstat").ino(), 0);
        let mut request = BulkRequest {
            inode: &raw mut inode,
            count: 1,
            buffer: arguments.stat.as_mut_ptr(),
            found: &raw mut found,
        };
        ioctl(&file, XFS_IOC_FSBULKSTAT_SINGLE, &mut request).expect("bulkstat");
        ioctl(&file, XFS_IOC_SWAPEXT, &mut arguments).expect("XFS_IOC_SWAPEXT");
    }))
}

fn exchange_range(place: &Place) -> Result<Change, String> {
    /// `struct xfs_exchange_range` of `xfs_fs.h`.
    #[repr(C)]
    struct ExchangeRange {
        file: i32,
        padding: u32,
        file_offset: u64,
        offset: u64,
        length: u64,
        flags: u64,
    }
    const XFS_IOC_EXCHANGE_RANGE: u32 = 0x4028_5881;
    only_on("xfs", place)?;
    // Needs a feature of the filesystem that the common test disk cannot have, because 6.1 mounts it too.
    let directory = dax::mounted(place)?;
    let target = Target::new(directory.join("exchanged"));
    let other = Target::starting_with(directory.join("exchanged too"), b'A');
    let (file, other_file) = (target.same(), other.same());
    let exchange = move |n| {
        let mut arguments = ExchangeRange {
            file: other_file.as_raw_fd(),
            padding: 0,
            file_offset: writes::offset(n),
            offset: writes::offset(n),
            length: BLOCK,
            flags: 0,
        };
        ioctl(&file, XFS_IOC_EXCHANGE_RANGE, &mut arguments)
    };
    if let Err(error) = exchange(BLOCKS - 1) {
        return Err(format!(
            "the kernel does not have it ({error}; 6.10 and later do)"
        ));
    }
    rustix::fs::sync();
    Ok(Change::of_all(vec![target, other], &["write"], move |n| {
        exchange(n).expect("XFS_IOC_EXCHANGE_RANGE");
    }))
}

fn encoded_write(place: &Place) -> Result<Change, String> {
    /// `struct btrfs_ioctl_encoded_io_args` of linux/btrfs.h.
    #[repr(C)]
    struct Encoded {
        vectors: *const libc::iovec,
        count: u64,
        offset: i64,
        flags: u64,
        length: u64,
        plain_length: u64,
        plain_offset: u64,
        compression: u32,
        encryption: u32,
        reserved: [u8; 64],
    }
    const BTRFS_IOC_ENCODED_WRITE: u32 = 0x4080_9440;
    const ZLIB: u32 = 1;
    /// 4096 bytes of `E`, compressed.
    const DATA: [u8; 28] = [
        0x78, 0xda, 0xed, 0xc1, 0x01, 0x0d, 0x00, 0x00, 0x00, 0xc2, 0xa0, 0x74, 0xef, 0x5f, 0xc9,
        0x1e, 0x0e, 0x28, 0x00, 0x00, 0x00, 0xe0, 0xdd, 0x00, 0x3d, 0xbc, 0x50, 0x3d,
    ];
    only_on("btrfs", place)?;
    let target = writes::target(place);
    let file = target.same();
    let check = target.same();
    Ok(Change::of(target, &["write"], move |n| {
        let vector = libc::iovec {
            iov_base: DATA.as_ptr().cast_mut().cast(),
            iov_len: DATA.len(),
        };
        // SAFETY: all zeroes is a valid structure.
        let mut arguments: Encoded = unsafe { zeroed() };
        arguments.vectors = &raw const vector;
        arguments.count = 1;
        arguments.offset = writes::offset(n) as i64;
        (arguments.length, arguments.plain_length) = (BLOCK, BLOCK);
        arguments.compression = ZLIB;
        // Returns how many bytes it took.
        ioctl(&file, BTRFS_IOC_ENCODED_WRITE, &mut arguments).expect("BTRFS_IOC_ENCODED_WRITE");
        let mut byte = [0];
        check
            .read_exact_at(&mut byte, writes::offset(n))
            .expect("pread");
        assert_eq!(byte, *b"E");
    }))
}
