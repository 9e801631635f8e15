//! What must make no event, because it changes no byte.

use std::{
    fs::{self, OpenOptions, Permissions},
    os::unix::fs::{FileExt, PermissionsExt},
    time::{Duration, SystemTime},
};

use super::{BLOCK, BLOCKS, Change, Effect, ways, writes};
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
