//! What is measured: single operations, on one file in a directory of its own.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::clock::Clock;

/// Something whose cost is measured.
pub(crate) struct Operation {
    /// Its name in the tables.
    pub(crate) name: &'static str,
    /// What it is read from.
    pub(crate) clock: Clock,
    /// How many are measured: in a quick run, and else.
    pub(crate) samples: [usize; 2],
    /// Also measured in a quick run.
    pub(crate) quick: bool,
    /// Two runs agree: nothing waits for the disk, and every sample finds the same state.
    pub(crate) exact: bool,
    /// Gets what it needs from a directory.
    pub(crate) prepare: fn(&Path) -> Box<dyn Sample>,
}

/// One operation, again and again.
pub(crate) trait Sample {
    /// Not measured. Whoever watches has time to do its work afterwards.
    fn before(&mut self) {}
    /// Not measured, right before what is.
    fn ready(&mut self) {}
    /// Measured.
    fn run(&mut self);
}

const SMALL: [usize; 2] = [41, 101];

const fn single(name: &'static str, prepare: fn(&Path) -> Box<dyn Sample>) -> Operation {
    Operation {
        name,
        clock: Clock::Machine,
        samples: SMALL,
        quick: true,
        exact: true,
        prepare,
    }
}

/// What costs one thing or another, whatever is done about it.
const fn journaled(name: &'static str, prepare: fn(&Path) -> Box<dyn Sample>) -> Operation {
    Operation {
        exact: false,
        ..single(name, prepare)
    }
}

const fn varying(name: &'static str, prepare: fn(&Path) -> Box<dyn Sample>) -> Operation {
    Operation {
        quick: false,
        exact: false,
        ..single(name, prepare)
    }
}

/// Every single operation.
pub(crate) const OPERATIONS: &[Operation] = &[
    single("pwrite of 512 bytes, already dirty", |place| {
        let file = dirty(place);
        Box::new(Plain(move || write(&file, 0)))
    }),
    single("pwrite of 512 bytes, first after fsync", |place| {
        let file = dirty(place);
        let synced = file.try_clone().expect("a descriptor");
        Box::new(Aged(
            file.try_clone().expect("a descriptor"),
            move || synced.sync_all().expect("fsync"),
            move || write(&file, 0),
        ))
    }),
    single("the same, while the watcher is awake", |place| {
        let file = dirty(place);
        let other = File::create(place.join("other")).expect("another file");
        Box::new(Awake { file, other })
    }),
    single("store into a mapping, already dirty", |place| {
        let mapping = Mapping::of(&dirty(place));
        mapping.store();
        Box::new(Plain(move || mapping.store()))
    }),
    single("store into a mapping, first after fsync", |place| {
        let file = dirty(place);
        let mapping = Mapping::of(&file);
        Box::new(Aged(
            file.try_clone().expect("a descriptor"),
            move || file.sync_all().expect("fsync"),
            move || mapping.store(),
        ))
    }),
    single("pread of 512 bytes", |place| {
        let file = dirty(place);
        let mut buffer = [0; 512];
        Box::new(Plain(move || {
            file.read_exact_at(&mut buffer, 0).expect("pread");
        }))
    }),
    single("open and close", |place| {
        let path = path(place);
        drop(dirty(place));
        Box::new(Plain(move || drop(File::open(&path).expect("open"))))
    }),
    single("stat", |place| {
        let path = path(place);
        drop(dirty(place));
        Box::new(Plain(move || {
            fs::metadata(&path).expect("stat");
        }))
    }),
    journaled("ftruncate, dirty", |place| {
        let file = dirty(place);
        let mut longer = false;
        Box::new(Aged(
            file.try_clone().expect("a descriptor"),
            || (),
            move || {
                longer = !longer;
                let length = if longer { 8192 } else { 4096 };
                file.set_len(length).expect("ftruncate");
            },
        ))
    }),
    varying("create, write 100 bytes, close", |place| {
        let path = place.join("small");
        let unlinked = path.clone();
        Box::new(After(
            move || drop(fs::remove_file(&unlinked)),
            move || fs::write(&path, [7; 100]).expect("a small file"),
        ))
    }),
    varying("random pwrite of 4 KiB, buffered", |place| random(place, 0)),
    Operation {
        clock: Clock::Thread,
        ..varying("random pwrite of 4 KiB, direct", |place| {
            random(place, libc::O_DIRECT)
        })
    },
];

fn path(place: &Path) -> PathBuf {
    place.join("file")
}

/// A file of two pages, both dirty.
fn dirty(place: &Path) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path(place))
        .expect("the file can be opened");
    file.write_all_at(&[1; 8192], 0).expect("it can be written");
    file
}

fn write(file: &File, offset: u64) {
    file.write_all_at(&[2; 512], offset).expect("pwrite");
}

/// How many pages are written to at random.
const PAGES: u64 = 1024;

#[repr(align(4096))]
struct Page([u8; 4096]);

fn random(place: &Path, flags: i32) -> Box<dyn Sample> {
    let path = place.join("random");
    fs::write(&path, vec![0; PAGES as usize * 4096]).expect("a larger file");
    let file = File::options()
        .write(true)
        .custom_flags(flags)
        .open(&path)
        .expect("it can be opened");
    file.sync_all().expect("fsync");
    let mut numbers = fastrand::Rng::with_seed(5);
    let page = Box::new(Page([3; 4096]));
    Box::new(Plain(move || {
        let offset = numbers.u64(0..PAGES) * 4096;
        file.write_all_at(&page.0, offset).expect("pwrite");
    }))
}

/// A page of a file, mapped shared.
struct Mapping(*mut u8);

impl Mapping {
    fn of(file: &File) -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe {
            mmap(
                std::ptr::null_mut(),
                4096,
                access,
                MapFlags::SHARED,
                file,
                0,
            )
        };
        Self(page.expect("mmap").cast())
    }

    fn store(&self) {
        // SAFETY: the page is mapped writable for as long as we live, and nobody else reads it.
        unsafe { self.0.write_volatile(7) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by us, and nothing points into it any more.
        unsafe { munmap(self.0.cast(), 4096).expect("munmap") };
    }
}

/// The first write to a file, when the first write to another one has just woken the watcher, who has not had
/// the time to run.
struct Awake {
    file: File,
    other: File,
}

impl Sample for Awake {
    fn before(&mut self) {
        self.file.sync_all().expect("fsync");
        self.other.sync_all().expect("fsync");
    }

    fn ready(&mut self) {
        write(&self.other, 0);
        age(&self.file);
    }

    fn run(&mut self) {
        write(&self.file, 0);
    }
}

struct Plain<F>(F);

impl<F: FnMut()> Sample for Plain<F> {
    fn run(&mut self) {
        self.0();
    }
}

/// What is done before, and what is measured.
struct After<B, F>(B, F);

/// The same with a file whose time of modification is old: see [`age`].
struct Aged<B, F>(File, B, F);

impl<B: FnMut(), F: FnMut()> Sample for Aged<B, F> {
    fn before(&mut self) {
        self.1();
    }

    fn ready(&mut self) {
        age(&self.0);
    }

    fn run(&mut self) {
        self.2();
    }
}

/// Gives the file an old time of modification. A change then brings its inode into the journal, each time and not only
/// if the clock has ticked since the last one; and the journal has a transaction running, which otherwise some
/// changes would have to begin.
fn age(file: &File) {
    let long_ago = rustix::fs::Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: long_ago,
        last_modification: long_ago,
    };
    rustix::fs::futimens(file, &times).expect("futimens");
}

impl<B: FnMut(), F: FnMut()> Sample for After<B, F> {
    fn before(&mut self) {
        self.0();
    }

    fn run(&mut self) {
        self.1();
    }
}
