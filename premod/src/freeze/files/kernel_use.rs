//! Files that the kernel itself uses now: it writes to them without asking anybody.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStringExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use crate::mounts::unescape;

/// Device and inode number, as `stat` says them.
type Id = (u64, u64);

/// These files.
#[derive(Debug, Default)]
pub struct UsedByKernel {
    pub(super) swap: Vec<Id>,
    /// With the name of the loop device.
    pub(super) loops: Vec<(String, Id)>,
}

impl UsedByKernel {
    /// Looks for them.
    #[must_use]
    pub fn gather() -> Self {
        let table = fs::read("/proc/swaps").unwrap_or_default();
        Self {
            swap: swap_files(&table).filter_map(|path| id_of(&path)).collect(),
            loops: loop_devices().collect(),
        }
    }
}

fn id_of(path: &Path) -> Option<Id> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The swap files in /proc/swaps, which writes blanks in names as `\040`.
fn swap_files(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table
        .split(|&byte| byte == b'\n')
        .skip(1)
        .filter_map(|line| {
            let end = line.iter().position(u8::is_ascii_whitespace)?;
            Some(PathBuf::from(OsString::from_vec(unescape(&line[..end]))))
        })
}

/// The loop devices in use, with the files behind them.
fn loop_devices() -> impl Iterator<Item = (String, Id)> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    devices.filter_map(|device| {
        let mut path = fs::read(device.path().join("loop/backing_file")).ok()?;
        if path.last() == Some(&b'\n') {
            path.pop();
        }
        let name = device.file_name().into_string().ok()?;
        // The device itself knows the file; its name may lead elsewhere here, or nowhere.
        let id = asked(&Path::new("/dev").join(&name))
            .or_else(|| id_of(Path::new(&OsString::from_vec(path))))?;
        Some((name, id))
    })
}

/// What a loop device says of its file.
fn asked(device: &Path) -> Option<Id> {
    /// `LOOP_GET_STATUS64` of linux/loop.h.
    const GET_STATUS: u32 = 0x4c05;
    /// `struct loop_info64`: the file's device and inode number come first.
    const WORDS: usize = 232 / 8;
    let device = File::open(device).ok()?;
    let mut info = [0u64; WORDS];
    // SAFETY: the kernel writes a structure of this size.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS.into(), info.as_mut_ptr()) };
    (result == 0).then_some((info[0], info[1]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn swap_files_of_any_name_are_found() {
        let table = b"Filename\t\tType\n/a\\040\xff  file\t1\n/dev/sda2 partition 7\n";
        let found: Vec<_> = swap_files(table).collect();
        let bytes: Vec<_> = found
            .iter()
            .map(|path| path.as_os_str().as_bytes())
            .collect();
        assert_eq!(bytes, [&b"/a \xff"[..], b"/dev/sda2"]);
    }
}
