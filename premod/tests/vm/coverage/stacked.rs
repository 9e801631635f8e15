//! Files that are changed through something on top of them: overlayfs, a loop device.

use std::{
    fs::{self, File},
    io::Write,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::PathBuf,
};

use rustix::{fs::OFlags, pipe::pipe};

use super::{BLOCK, BLOCKS, Change, Target, dax, splices, ways, writes};
use crate::{harness::Place, tools::run, workload::Mapping};

ways! {
    "overlayfs: write" => overlay_write,
    "overlayfs: splice" => overlay_splice,
    "overlayfs: store through an old mapping" => overlay_store,
    "overlayfs: truncate" => overlay_truncate,
    "overlayfs: ftruncate" => overlay_ftruncate,
    "overlayfs: open with O_TRUNC" => overlay_o_trunc,
    "overlayfs: fallocate" => overlay_fallocate,
    "loop device" => loop_device,
    "loop device with direct I/O" => loop_device_direct,
}

/// A file below an overlay, and its name there. The upper directory is traced, the mount point is not.
fn overlaid(place: &Place) -> (Target, PathBuf) {
    let merged = place.outside.join("merged");
    let lower = place.outside.join("lower");
    let (upper, work) = (place.file("upper"), place.file("work"));
    for directory in [&merged, &lower, &upper, &work] {
        fs::create_dir(directory).expect("mkdir");
    }
    let target = Target::new(upper.join("data"));
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    run("modprobe", &["overlay"]);
    let point = merged.to_str().expect("a plain path");
    run(
        "mount",
        &["-t", "overlay", "overlay", "-o", &options, point],
    );
    (target, merged.join("data"))
}

fn overlay_write(place: &Place) -> Result<Change, String> {
    let (target, path) = overlaid(place);
    let file = writes::reopen(&path, OFlags::empty());
    Ok(Change::of(target, &["write"], move |n| {
        let bytes = [writes::byte(n)];
        file.write_all_at(&bytes, writes::offset(n))
            .expect("pwrite");
    }))
}

fn overlay_splice(place: &Place) -> Result<Change, String> {
    let (target, path) = overlaid(place);
    let file = writes::reopen(&path, OFlags::empty());
    let (reader, writer) = pipe().expect("a pipe");
    let mut writer = File::from(writer);
    Ok(Change::of(target, &["write"], move |n| {
        writer
            .write_all(&[writes::byte(n)])
            .expect("room in the pipe");
        splices::move_from_pipe(&reader, &file, n, 1);
    }))
}

fn overlay_store(place: &Place) -> Result<Change, String> {
    let (target, path) = overlaid(place);
    let file = writes::reopen(&path, OFlags::empty());
    let mut mapping = Mapping::shared(&file, (BLOCKS * BLOCK) as usize);
    mapping.store(1, b'1');
    file.sync_all().expect("fsync");
    Ok(Change::of(target, &["mmap"], move |n| {
        mapping.store(writes::offset(n) as usize, writes::byte(n));
    }))
}

fn overlay_truncate(place: &Place) -> Result<Change, String> {
    let (target, path) = overlaid(place);
    let path = writes::c_path(&path);
    Ok(Change::of(target, &["truncate"], move |n| {
        let size = BLOCKS * BLOCK - 100 * (n + 1);
        // SAFETY: a path that lives through the call.
        let result = unsafe { libc::truncate(path.as_ptr(), size as i64) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }))
}

fn overlay_ftruncate(place: &Place) -> Result<Change, String> {
    let (target, path) = overlaid(place);
    let file = writes::reopen(&path, OFlags::empty());
    Ok(Change::of(target, &["truncate"], move |n| {
        file.set_len(BLOCKS * BLOCK - 100 * (n + 1))
            .expect("ftruncate");
    }))
}

fn overlay_o_trunc(place: &Place) -> Result<Change, String> {
    let (target, path) = overlaid(place);
    let change = Change::of(target, &["truncate"], move |_| {
        drop(File::create(&path).expect("open"));
    });
    Ok(change.refilled())
}

fn overlay_fallocate(place: &Place) -> Result<Change, String> {
    use rustix::fs::{FallocateFlags, fallocate};
    let (target, path) = overlaid(place);
    let file = writes::reopen(&path, OFlags::empty());
    Ok(Change::of(target, &["fallocate"], move |n| {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, punch, writes::offset(n), BLOCK).expect("fallocate");
    }))
}

/// A loop device, detached at the end.
struct Loop {
    path: PathBuf,
    device: File,
}

impl Loop {
    /// `flags` are those of `struct loop_info64`.
    fn over(target: &Target, flags: u32) -> Self {
        /// `struct loop_config` of linux/loop.h.
        #[repr(C)]
        struct Config {
            file: u32,
            block_size: u32,
            before: [u8; 52],
            flags: u32,
            after: [u8; 176],
            reserved: [u64; 8],
        }
        const LOOP_CTL_GET_FREE: u32 = 0x4c82;
        const LOOP_CONFIGURE: u32 = 0x4c0a;
        run("modprobe", &["loop"]);
        let control = File::open("/dev/loop-control").expect("/dev/loop-control");
        // SAFETY: takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE.into()) };
        let path = PathBuf::from(format!("/dev/loop{number}"));
        dax::wait_for(&path);
        let device = writes::reopen(&path, OFlags::empty());
        let config = Config {
            file: target.file.as_raw_fd() as u32,
            block_size: 0,
            before: [0; 52],
            flags,
            after: [0; 176],
            reserved: [0; 8],
        };
        // SAFETY: the structure lives through the call.
        let result =
            unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE.into(), &raw const config) };
        assert_eq!(
            result,
            0,
            "LOOP_CONFIGURE: {}",
            std::io::Error::last_os_error()
        );
        Self { path, device }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        const LOOP_CLR_FD: u32 = 0x4c01;
        // SAFETY: takes no argument. If it fails, the device stays until the machine ends.
        let _ = unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_CLR_FD.into()) };
    }
}

fn loop_device(place: &Place) -> Result<Change, String> {
    written_below(place, 0)
}

fn loop_device_direct(place: &Place) -> Result<Change, String> {
    const LO_FLAGS_DIRECT_IO: u32 = 16;
    written_below(place, LO_FLAGS_DIRECT_IO)
}

fn written_below(place: &Place, flags: u32) -> Result<Change, String> {
    let target = writes::target(place);
    let device = Loop::over(&target, flags);
    let file = writes::reopen(&device.path, OFlags::DIRECT);
    let mut memory = Mapping::aligned(BLOCK as usize);
    let change = Change::of(target, &["write"], move |n| {
        memory.store(0, writes::byte(n));
        let written = file.write_all_at(memory.bytes(), writes::offset(n));
        written.unwrap_or_else(|error| panic!("writing to {}: {error}", device.path.display()));
    });
    let falls_back = flags != 0 && place.filesystem == "btrfs";
    Ok(Change {
        repeats: falls_back.then_some(
            "every write is announced: btrfs turns it into a buffered write and waits until it is on \
             disk (btrfs_direct_write), so that the file is clean again each time",
        ),
        ..change
    })
}
