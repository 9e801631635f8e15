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
    /// Served to others as disks, with where that was set up.
    pub(super) served: Vec<(PathBuf, Id)>,
}

impl UsedByKernel {
    /// Looks for them.
    #[must_use]
    pub fn gather() -> Self {
        let table = fs::read("/proc/swaps").unwrap_or_default();
        Self {
            swap: swap_files(&table).filter_map(|path| id_of(&path)).collect(),
            loops: loop_devices().collect(),
            served: served(Path::new(CONFIGFS)),
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

/// Where the kernel's servers are set up.
const CONFIGFS: &str = "/sys/kernel/config";

/// How one of them names its file in what can be read of it.
type Named = fn(&[u8]) -> Option<&[u8]>;

/// What can be read of LIO's, of nvmet's, and of a USB device's.
const SERVERS: [(&str, Named); 3] = [
    ("target/core/*/*/info", lio_file),
    ("nvmet/subsystems/*/namespaces/*/device_path", whole_line),
    ("usb_gadget/*/functions/*/*/file", whole_line),
];

/// `fd_show_configfs_dev_params` of drivers/target/target_core_file.c.
fn lio_file(text: &[u8]) -> Option<&[u8]> {
    const BEFORE: &[u8] = b" File: ";
    const AFTER: &[u8] = b"  Size: ";
    let begin = text.windows(BEFORE.len()).position(|part| part == BEFORE)? + BEFORE.len();
    let end = text.windows(AFTER.len()).rposition(|part| part == AFTER)?;
    text.get(begin..end)
}

fn whole_line(text: &[u8]) -> Option<&[u8]> {
    Some(text.strip_suffix(b"\n").unwrap_or(text))
}

fn served(configfs: &Path) -> Vec<(PathBuf, Id)> {
    let mut served = Vec::new();
    for (pattern, named) in SERVERS {
        for path in matching(configfs, pattern) {
            let beside = |name| fs::read(path.with_file_name(name));
            // Described, and not served yet.
            if beside("enable").is_ok_and(|is| is.starts_with(b"0")) {
                continue;
            }
            let text = fs::read(&path).unwrap_or_default();
            let file = named(&text).map(|name| PathBuf::from(OsString::from_vec(name.to_vec())));
            if let Some(id) = file.and_then(|file| id_of(&file)) {
                served.push((path.parent().unwrap_or(&path).to_owned(), id));
            }
        }
    }
    served
}

/// The paths below `base` that fit a pattern, in which `*` stands for any one name.
fn matching(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut paths = vec![base.to_owned()];
    for part in pattern.split('/') {
        paths = if part == "*" {
            let lists = paths.iter().filter_map(|path| fs::read_dir(path).ok());
            lists.flatten().flatten().map(|one| one.path()).collect()
        } else {
            paths.iter().map(|path| path.join(part)).collect()
        };
    }
    paths
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::freeze::tests::Directory;

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

    #[test]
    fn files_that_are_served_are_found_by_any_name() {
        let configfs = Directory::new();
        let file = configfs.file("a  Size: \u{e9} file");
        let say = |place: &str, what: &str, text: String| {
            let place = configfs.path.join(place);
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join(what), text).unwrap();
            place
        };
        let name = file.display();
        let lio = format!(
            "Status: ACTIVATED  Max Queue Depth: 0\n        TCM FILEIO ID: 0        File: {name}  Size: 7  Mode: O_DSYNC Async: 0\n"
        );
        let places = [
            say("target/core/fileio_0/disk", "info", lio.clone()),
            say(
                "nvmet/subsystems/a/namespaces/1",
                "device_path",
                format!("{name}\n"),
            ),
        ];
        let off = say("target/core/fileio_0/off", "info", lio);
        fs::write(off.join("enable"), "0\n").unwrap();
        say("target/core/alua", "info", String::new());
        say("target/core/rd_mcp_0/disk", "info", "RAMDISK".to_owned());
        let id = id_of(&file).unwrap();
        assert_eq!(served(&configfs.path), places.map(|place| (place, id)));
    }
}
