//! ioctls of single filesystems that change data.

use std::{
    arch::asm,
    fs::File,
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
};

use super::{BLOCK, BLOCKS, Change, Effect, Target, calls_of_32_bits, dax, ways, writes};
use crate::harness::Place;

ways! {
    "FS_IOC_ZERO_RANGE" => zero_range,
    "FS_IOC_UNRESVSP64" => unreserve_space,
    "EXT4_IOC_MOVE_EXT (both files)" => move_extents,
    "EXT4_IOC_MOVE_EXT of 32 bits (both files)" => move_extents_of_32_bits,
    "EXT4_IOC_MOVE_EXT by a number of 64 bits (both files)" => move_extents_by_a_long_number,
    "EXT4_IOC_SWAP_BOOT" => swap_boot,
    "XFS_IOC_SWAPEXT (both files)" => swap_extents,
    "XFS_IOC_SWAPEXT of 32 bits (both files)" => swap_extents_of_32_bits,
    "XFS_IOC_EXCHANGE_RANGE (both files)" => exchange_range,
    "XFS_IOC_COMMIT_RANGE (both files)" => commit_range,
    "BTRFS_IOC_ENCODED_WRITE" => encoded_write,
    "BTRFS_IOC_ENCODED_WRITE of 32 bits" => encoded_write_of_32_bits,
}

fn only_on(filesystem: &str, place: &Place) -> Result<(), String> {
    if place.filesystem == filesystem {
        Ok(())
    } else {
        Err(format!("an ioctl of {filesystem}"))
    }
}

/// Calls an ioctl that must succeed.
pub(super) fn ioctl<T>(file: &File, request: u32, argument: &mut T) -> io::Result<()> {
    let argument: *mut T = argument;
    // SAFETY: the argument is the structure that the request asks for, and lives through the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request.into(), argument) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `struct move_extent` of fs/ext4/ext4.h, in blocks.
#[repr(C)]
#[derive(Clone, Copy)]
struct MoveExtent {
    reserved: u32,
    donor: u32,
    start: u64,
    donor_start: u64,
    length: u64,
    moved: u64,
}

/// The ioctls of XFS that the VFS has taken over.
fn space(place: &Place, request: u32) -> Result<Change, String> {
    /// `struct space_resv` of linux/falloc.h.
    #[repr(C)]
    struct Space {
        kind: i16,
        whence: i16,
        start: i64,
        length: i64,
        rest: [u32; 6],
    }
    let target = writes::target(place);
    let file = target.same();
    Ok(Change::of(target, &["fallocate"], move |n| {
        let mut arguments = Space {
            kind: 0,
            whence: 0,
            start: writes::offset(n) as i64,
            length: BLOCK as i64,
            rest: [0; 6],
        };
        ioctl(&file, request, &mut arguments).expect("zeroing");
    })
    .refilled())
}

fn zero_range(place: &Place) -> Result<Change, String> {
    space(place, 0x4030_5839)
}

fn unreserve_space(place: &Place) -> Result<Change, String> {
    space(place, 0x4030_582b)
}

fn move_extents(place: &Place) -> Result<Change, String> {
    move_extents_by(place, ioctl)
}

fn move_extents_of_32_bits(place: &Place) -> Result<Change, String> {
    calls_of_32_bits::are_there()?;
    move_extents_by(place, calls_of_32_bits::ioctl)
}

fn move_extents_by_a_long_number(place: &Place) -> Result<Change, String> {
    move_extents_by(place, ioctl_by_a_long_number)
}

/// The same as [`ioctl`], with more in the register than the number of the system call, of which the kernel takes 32
/// bits.
fn ioctl_by_a_long_number<T>(file: &File, request: u32, argument: &mut T) -> io::Result<()> {
    const MORE: i64 = 1 << 32;
    let argument: *mut T = argument;
    let result: i64;
    // SAFETY: the argument is the structure that the request asks for, and lives through the call, which changes no
    // registers but these.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") MORE | libc::SYS_ioctl => result,
            in("rdi") i64::from(file.as_raw_fd()),
            in("rsi") u64::from(request),
            in("rdx") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result as i32));
    }
    Ok(())
}

fn move_extents_by(
    place: &Place,
    ioctl: fn(&File, u32, &mut MoveExtent) -> io::Result<()>,
) -> Result<Change, String> {
    const EXT4_IOC_MOVE_EXT: u32 = 0xc028_660f;
    only_on("ext4", place)?;
    // The file keeps its bytes, in the donor's blocks. The donor gets the file's old blocks.
    let target = writes::target(place).with(Effect::Keeps);
    let donor = Target::starting_with(place.file("donor"), b'A');
    let (file, donor_file) = (target.same(), donor.same());
    let block = target.file.metadata().expect("fstat").blksize();
    let fs_block = rustix::fs::fstatvfs(&file).expect("fstatvfs").f_bsize;
    assert!(
        block >= fs_block && BLOCK.is_multiple_of(fs_block),
        "{fs_block}"
    );
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

/// `struct xfs_bstat` of `xfs_fs.h` as bytes.
type Stat = [u8; 136];

/// `struct xfs_swapext`, and `struct compat_xfs_swapext` of fs/xfs/xfs_ioctl32.h with a smaller `STAT`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SwapExtents<STAT> {
    version: i64,
    target: i64,
    temporary: i64,
    offset: i64,
    length: i64,
    padding: [u8; 16],
    stat: STAT,
}

/// What `XFS_IOC_SWAPEXT` wants to know of a file.
fn stat_of(file: &File) -> Stat {
    /// `struct xfs_fsop_bulkreq` of `xfs_fs.h`.
    #[repr(C)]
    struct BulkRequest {
        inode: *mut u64,
        count: i32,
        buffer: *mut u8,
        found: *mut i32,
    }
    const XFS_IOC_FSBULKSTAT_SINGLE: u32 = 0xc020_5866;
    let mut stat = [0; 136];
    let (mut inode, mut found) = (file.metadata().expect("fstat").ino(), 0);
    let mut request = BulkRequest {
        inode: &raw mut inode,
        count: 1,
        buffer: stat.as_mut_ptr(),
        found: &raw mut found,
    };
    ioctl(file, XFS_IOC_FSBULKSTAT_SINGLE, &mut request).expect("bulkstat");
    stat
}

fn swap<STAT>(file: &File, other: &File, stat: STAT) -> SwapExtents<STAT> {
    SwapExtents {
        version: 0,
        target: file.as_raw_fd().into(),
        temporary: other.as_raw_fd().into(),
        offset: 0,
        length: (BLOCKS * BLOCK) as i64,
        padding: [0; 16],
        stat,
    }
}

fn swap_extents(place: &Place) -> Result<Change, String> {
    const XFS_IOC_SWAPEXT: u32 = 0xc0c0_586d;
    swap_extents_by(place, |file, other| {
        let mut arguments = swap(file, other, stat_of(file));
        ioctl(file, XFS_IOC_SWAPEXT, &mut arguments)
    })
}

fn swap_extents_of_32_bits(place: &Place) -> Result<Change, String> {
    /// Another number, because the structure is smaller.
    const XFS_IOC_SWAPEXT_32: u32 = 0xc0a4_586d;
    /// Where the second and the nanosecond of the last modification and of the last change are in both structures.
    const TIMES: [(usize, usize); 4] = [(56, 44), (64, 48), (72, 52), (80, 56)];
    calls_of_32_bits::are_there()?;
    swap_extents_by(place, |file, other| {
        let (long, mut short) = (stat_of(file), [0; 108]);
        for (from, to) in TIMES {
            short[to..to + 4].copy_from_slice(&long[from..from + 4]);
        }
        let mut arguments = swap(file, other, short);
        // As packed as programs of 32 bits have it.
        assert_eq!(size_of_val(&arguments) - 4, 164);
        calls_of_32_bits::ioctl(file, XFS_IOC_SWAPEXT_32, &mut arguments)
    })
}

fn swap_extents_by(
    place: &Place,
    exchange: fn(&File, &File) -> io::Result<()>,
) -> Result<Change, String> {
    only_on("xfs", place)?;
    let target = writes::target(place);
    let other = Target::starting_with(place.file("other"), b'A');
    let (file, other_file) = (target.same(), other.same());
    Ok(Change::of_all(vec![target, other], &["ioctl"], move |_| {
        exchange(&file, &other_file).expect("XFS_IOC_SWAPEXT");
    }))
}

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

impl ExchangeRange {
    fn with(other: &File, offset: u64) -> Self {
        Self {
            file: other.as_raw_fd(),
            padding: 0,
            file_offset: offset,
            offset,
            length: BLOCK,
            flags: 0,
        }
    }
}

fn exchange_range(place: &Place) -> Result<Change, String> {
    const XFS_IOC_EXCHANGE_RANGE: u32 = 0x4028_5881;
    exchange_by(place, ("exchanged", "6.10"), |file, other, offset| {
        let mut arguments = ExchangeRange::with(other, offset);
        ioctl(file, XFS_IOC_EXCHANGE_RANGE, &mut arguments)
    })
}

/// The same, if nobody has changed the file since it was looked at.
fn commit_range(place: &Place) -> Result<Change, String> {
    /// `struct xfs_commit_range` of `xfs_fs.h`.
    #[repr(C)]
    struct CommitRange {
        range: ExchangeRange,
        freshness: [u64; 6],
    }
    const XFS_IOC_START_COMMIT: u32 = 0x8058_5882;
    const XFS_IOC_COMMIT_RANGE: u32 = 0x4058_5883;
    exchange_by(place, ("committed", "6.12"), |file, other, offset| {
        let mut arguments = CommitRange {
            range: ExchangeRange::with(other, offset),
            freshness: [0; 6],
        };
        ioctl(file, XFS_IOC_START_COMMIT, &mut arguments)?;
        arguments.range = ExchangeRange::with(other, offset);
        ioctl(file, XFS_IOC_COMMIT_RANGE, &mut arguments)
    })
}

fn exchange_by(
    place: &Place,
    (name, since): (&str, &str),
    exchange: fn(&File, &File, u64) -> io::Result<()>,
) -> Result<Change, String> {
    only_on("xfs", place)?;
    // Needs a feature of the filesystem that the common test disk cannot have, because 6.1 mounts it too.
    let directory = dax::mounted(place)?;
    let target = Target::new(directory.join(name));
    let other = Target::starting_with(directory.join(format!("{name} too")), b'A');
    let (file, other_file) = (target.same(), other.same());
    let exchange = move |n| exchange(&file, &other_file, writes::offset(n));
    if let Err(error) = exchange(BLOCKS - 1) {
        return Err(format!(
            "the kernel does not have it ({error}; {since} and later do)"
        ));
    }
    rustix::fs::sync();
    Ok(Change::of_all(vec![target, other], &["write"], move |n| {
        exchange(n).expect("exchanging");
    }))
}

/// `struct btrfs_ioctl_encoded_io_args` of linux/btrfs.h, and that of programs of 32 bits.
#[repr(C)]
#[derive(Clone, Copy)]
struct Encoded<WORD> {
    vectors: WORD,
    count: WORD,
    offset: i64,
    flags: u64,
    length: u64,
    plain_length: u64,
    plain_offset: u64,
    compression: u32,
    encryption: u32,
    reserved: [u8; 64],
}

/// 4096 bytes of `E`, compressed.
const DATA: [u8; 28] = [
    0x78, 0xda, 0xed, 0xc1, 0x01, 0x0d, 0x00, 0x00, 0x00, 0xc2, 0xa0, 0x74, 0xef, 0x5f, 0xc9, 0x1e,
    0x0e, 0x28, 0x00, 0x00, 0x00, 0xe0, 0xdd, 0x00, 0x3d, 0xbc, 0x50, 0x3d,
];

impl<WORD> Encoded<WORD> {
    /// One vector, of [`DATA`].
    fn with(vectors: WORD, count: WORD, offset: u64) -> Self {
        const ZLIB: u32 = 1;
        Self {
            vectors,
            count,
            offset: offset as i64,
            flags: 0,
            length: BLOCK,
            plain_length: BLOCK,
            plain_offset: 0,
            compression: ZLIB,
            encryption: 0,
            reserved: [0; 64],
        }
    }
}

fn encoded_write(place: &Place) -> Result<Change, String> {
    const BTRFS_IOC_ENCODED_WRITE: u32 = 0x4080_9440;
    encoded_write_by(place, |file, offset| {
        let vector = libc::iovec {
            iov_base: DATA.as_ptr().cast_mut().cast(),
            iov_len: DATA.len(),
        };
        let mut arguments = Encoded::with(&raw const vector as u64, 1, offset);
        ioctl(file, BTRFS_IOC_ENCODED_WRITE, &mut arguments)
    })
}

fn encoded_write_of_32_bits(place: &Place) -> Result<Change, String> {
    const BTRFS_IOC_ENCODED_WRITE_32: u32 = 0x4078_9440;
    calls_of_32_bits::are_there()?;
    encoded_write_by(place, |file, offset| {
        let data = calls_of_32_bits::Low::new(DATA);
        let vector = calls_of_32_bits::Low::new([data.address(), DATA.len() as u32]);
        let mut arguments = Encoded::with(vector.address(), 1, offset);
        calls_of_32_bits::ioctl(file, BTRFS_IOC_ENCODED_WRITE_32, &mut arguments)
    })
}

fn encoded_write_by(
    place: &Place,
    write: fn(&File, u64) -> io::Result<()>,
) -> Result<Change, String> {
    only_on("btrfs", place)?;
    let target = writes::target(place);
    let file = target.same();
    let check = target.same();
    Ok(Change::of(target, &["write"], move |n| {
        // Returns how many bytes it took.
        write(&file, writes::offset(n)).expect("BTRFS_IOC_ENCODED_WRITE");
        let mut byte = [0];
        check
            .read_exact_at(&mut byte, writes::offset(n))
            .expect("pread");
        assert_eq!(byte, *b"E");
    }))
}
