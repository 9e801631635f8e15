//! What must make no event, because it changes no byte.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    os::unix::fs::{FileExt, PermissionsExt},
    time::{Duration, SystemTime},
};

use super::{BLOCK, BLOCKS, Change, Effect, ioctls::ioctl, ways, writes};
use crate::{harness::Place, workload::Mapping};

ways! {
    "silent: read" => read,
    "silent: read with O_DIRECT" => read_direct,
    "silent: load from a mapping" => load,
    "silent: store to a private mapping" => private_store,
    "silent: readahead" => readahead,
    "silent: access time" => access_time,
    "silent: chmod" => chmod,
    "silent: chown" => chown,
    "silent: utimens" => utimens,
    "silent: setxattr" => setxattr,
    "silent: open for writing" => open_for_writing,
    "silent: fsync" => fsync,
    "silent: rename and link" => rename_and_link,
    "silent: defragmentation" => defragmentation,
}

const LENGTH: usize = (BLOCKS * BLOCK) as usize;

fn silent(
    place: &Place,
    act: impl FnOnce(&super::Target) -> Box<dyn FnMut(u64)>,
) -> Result<Change, String> {
    let target = writes::target(place).with(Effect::None);
    let make = act(&target);
    Ok(Change::of(target, &[], make))
}

fn read(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let file = target.same();
        Box::new(move |n| {
            let mut bytes = [0; 100];
            file.read_exact_at(&mut bytes, writes::offset(n))
                .expect("pread");
        })
    })
}

fn read_direct(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let file = writes::reopen(&target.path, rustix::fs::OFlags::DIRECT);
        let memory = Mapping::aligned(BLOCK as usize);
        Box::new(move |n| {
            // SAFETY: our own memory, which nobody else has a reference to.
            let page = unsafe { std::slice::from_raw_parts_mut(memory.at(0), BLOCK as usize) };
            file.read_exact_at(page, writes::offset(n)).expect("pread");
        })
    })
}

fn load(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let mapping = Mapping::shared(&target.file, LENGTH);
        Box::new(move |n| {
            let byte = mapping.bytes()[writes::offset(n) as usize];
            assert_eq!(u64::from(byte), u64::from(b'a') + n % BLOCKS);
        })
    })
}

fn private_store(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let mut mapping = Mapping::private(&target.file, LENGTH);
        Box::new(move |n| mapping.store(writes::offset(n) as usize, b'x'))
    })
}

fn readahead(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let file = target.same();
        Box::new(move |_| {
            for advice in [rustix::fs::Advice::DontNeed, rustix::fs::Advice::WillNeed] {
                rustix::fs::fadvise(&file, 0, None, advice).expect("fadvise");
            }
        })
    })
}

fn access_time(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let file = target.same();
        Box::new(move |n| {
            // relatime updates the time of a file that was changed after it was read.
            let long_ago = fs::FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH);
            file.set_times(long_ago).expect("utimens");
            let mut byte = [0];
            file.read_exact_at(&mut byte, writes::offset(n))
                .expect("pread");
            let accessed = file.metadata().expect("fstat").accessed().expect("a time");
            assert_ne!(accessed, SystemTime::UNIX_EPOCH);
        })
    })
}

fn chmod(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let file = target.same();
        Box::new(move |n| {
            let mode = Permissions::from_mode(0o600 + (n % 8) as u32);
            file.set_permissions(mode).expect("chmod");
        })
    })
}

fn chown(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let file = target.same();
        Box::new(move |n| {
            let id = Some(n as u32 + 1);
            std::os::unix::fs::fchown(&file, id, id).expect("chown");
        })
    })
}

fn utimens(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let file = target.same();
        Box::new(move |n| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(n);
            file.set_modified(time).expect("utimens");
        })
    })
}

fn setxattr(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let file = target.same();
        Box::new(move |n| {
            let flags = rustix::fs::XattrFlags::empty();
            let value = [writes::byte(n); 100];
            rustix::fs::fsetxattr(&file, "user.test", &value, flags).expect("setxattr");
        })
    })
}

fn open_for_writing(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let path = target.path.clone();
        Box::new(move |_| drop(OpenOptions::new().append(true).open(&path).expect("open")))
    })
}

fn fsync(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let file = target.same();
        Box::new(move |_| file.sync_all().expect("fsync"))
    })
}

fn rename_and_link(place: &Place) -> Result<Change, String> {
    silent(place, |target| {
        let (path, other) = (target.path.clone(), target.path.with_extension("renamed"));
        Box::new(move |_| {
            fs::rename(&path, &other).expect("rename");
            fs::hard_link(&other, &path).expect("link");
            fs::remove_file(&other).expect("unlink");
        })
    })
}

fn defragmentation(place: &Place) -> Result<Change, String> {
    if place.filesystem != "btrfs" {
        return Err("here it is a change: EXT4_IOC_MOVE_EXT, XFS_IOC_SWAPEXT".to_owned());
    }
    silent(place, |target| {
        let file = target.same();
        Box::new(move |_| {
            let before = place_on_disk(&file);
            defragment(&file);
            file.sync_all().expect("fsync");
            assert_ne!(place_on_disk(&file), before, "it was not moved");
        })
    })
}

/// Defragments a file of btrfs. Its data is in dirty pages then.
pub(crate) fn defragment(file: &File) {
    /// `struct btrfs_ioctl_defrag_range_args` of linux/btrfs.h.
    #[repr(C)]
    struct DefragRange {
        start: u64,
        length: u64,
        flags: u64,
        threshold: u32,
        compression: u32,
        unused: [u32; 4],
    }
    const BTRFS_IOC_DEFRAG_RANGE: u32 = 0x4030_9410;
    /// Compress: else it leaves a file alone that is in one piece.
    const COMPRESS: u64 = 1;
    const ZLIB: u32 = 1;
    let mut arguments = DefragRange {
        start: 0,
        length: u64::MAX,
        flags: COMPRESS,
        threshold: 0,
        compression: ZLIB,
        unused: [0; 4],
    };
    ioctl(file, BTRFS_IOC_DEFRAG_RANGE, &mut arguments).expect("BTRFS_IOC_DEFRAG_RANGE");
}

/// Where a file's first block is on its disk.
pub(crate) fn place_on_disk(file: &File) -> u64 {
    /// `struct fiemap` of linux/fiemap.h with one `struct fiemap_extent`.
    #[repr(C)]
    #[derive(Default)]
    struct Map {
        start: u64,
        length: u64,
        flags: u32,
        mapped: u32,
        count: u32,
        reserved: u32,
        logical: u64,
        physical: u64,
        rest: [u64; 5],
    }
    const FS_IOC_FIEMAP: u32 = 0xc020_660b;
    /// What is on its way to the disk has got its place.
    const SYNC: u32 = 1;
    let mut map = Map {
        length: BLOCK,
        flags: SYNC,
        count: 1,
        ..Map::default()
    };
    ioctl(file, FS_IOC_FIEMAP, &mut map).expect("FS_IOC_FIEMAP");
    assert_eq!(map.mapped, 1);
    map.physical
}
