//! Mounts below the traced directories, now and later.

use std::{
    ffi::OsString,
    fs::File,
    os::{fd::AsFd, unix::ffi::OsStringExt},
    path::{Path, PathBuf},
};

use rustix::event::{PollFd, PollFlags, Timespec};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Watches the mount table.
pub(crate) struct Mounts {
    table: File,
}

impl Mounts {
    pub(crate) fn watch() -> std::io::Result<Self> {
        Ok(Self {
            table: File::open(MOUNTINFO)?,
        })
    }

    /// Whether the table changed since it was last asked.
    pub(crate) fn have_changed(&self) -> bool {
        let mut polled = [PollFd::from_borrowed_fd(self.table.as_fd(), PollFlags::PRI)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
            && polled[0]
                .revents()
                .intersects(PollFlags::PRI | PollFlags::ERR)
    }
}

/// All mount points.
pub(crate) fn all() -> Vec<PathBuf> {
    mount_points(&std::fs::read(MOUNTINFO).unwrap_or_default()).collect()
}

/// What is mounted strictly below any of these directories.
pub(crate) fn below(directories: &[&Path]) -> Vec<Mounted> {
    if directories.is_empty() {
        return Vec::new();
    }
    let mut mounts = table();
    mounts.retain(|Mounted { point, .. }| {
        directories
            .iter()
            .any(|directory| point.starts_with(directory) && point != directory)
    });
    mounts
}

/// A line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// The mount's number.
    pub(crate) id: u64,
    /// The filesystem's device, as `major:minor`.
    pub(crate) device: Vec<u8>,
    /// Which directory of the filesystem is mounted, or which file.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) point: PathBuf,
    /// Of overlayfs: the directory in which what is modified lies.
    pub(crate) upper: Option<PathBuf>,
}

/// The mount table of premod's own mount namespace.
pub(crate) fn table() -> Vec<Mounted> {
    mounted(&std::fs::read(MOUNTINFO).unwrap_or_default()).collect()
}

fn mounted(table: &[u8]) -> impl Iterator<Item = Mounted> {
    let path = |field| PathBuf::from(OsString::from_vec(unescape(field)));
    table.split(|&byte| byte == b'\n').filter_map(move |line| {
        let mut fields = line.split(|&byte| byte == b' ');
        Some(Mounted {
            id: std::str::from_utf8(fields.next()?).ok()?.parse().ok()?,
            device: fields.nth(1)?.to_vec(),
            root: path(fields.next()?),
            point: path(fields.next()?),
            // Optional fields come before the hyphen; type, source and options after it.
            upper: fields
                .skip_while(|field| *field != b"-")
                .nth(3)
                .and_then(upper)
                .map(path),
        })
    })
}

/// The upper directory among the options of a filesystem, of which only overlayfs has one.
fn upper(options: &[u8]) -> Option<&[u8]> {
    options
        .split(|&byte| byte == b',')
        .find_map(|option| option.strip_prefix(b"upperdir="))
}

fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    mounted(table).map(|mounted| mounted.point)
}

/// The kernel writes space, tab, newline and backslash as `\ooo` (`mangle`).
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::fuzz;

    /// As the kernel writes a path (`seq_escape`).
    fn mangled(path: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for &byte in path {
            match byte {
                b' ' | b'\t' | b'\n' | b'\\' | b'#' => {
                    text.extend(format!("\\{byte:03o}").into_bytes());
                }
                _ => text.push(byte),
            }
        }
        text
    }

    proptest! {
        #![proptest_config(fuzz::effort(600))]

        #[test]
        fn mount_points_of_any_name_come_through(paths in vec(fuzz::names(), 0..6)) {
            let paths: Vec<_> = paths.iter().map(|names| fuzz::joined(names, 0)).collect();
            let table: Vec<u8> = paths
                .iter()
                .flat_map(|path| {
                    let path = mangled(path);
                    [b"23 22 8:2 / ", &path[..], b" rw shared:1 - xfs ", &path, b" rw\n"].concat()
                })
                .collect();
            let found: Vec<_> = mount_points(&table).map(|path| path.into_os_string().into_vec()).collect();
            prop_assert_eq!(found, paths);
        }

        #[test]
        fn any_text_is_a_mount_table(table in fuzz::bytes(600)) {
            let lines = table.split(|&byte| byte == b'\n').count();
            prop_assert!(mount_points(&table).count() <= lines);
        }
    }

    #[test]
    fn mount_points_are_unescaped() {
        let table =
            b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 8:2 / /mnt/a\\040b\\134 rw - xfs x rw\n";
        let found: Vec<_> = mount_points(table).collect();
        assert_eq!(found, [PathBuf::from("/"), PathBuf::from("/mnt/a b\\")]);
        let last = Mounted {
            id: 23,
            device: b"8:2".to_vec(),
            root: "/".into(),
            point: "/mnt/a b\\".into(),
            upper: None,
        };
        assert_eq!(mounted(table).last(), Some(last));
        let overlay = b"24 1 0:9 / /m rw shared:1 master:2 - overlay o rw,lowerdir=/l,upperdir=/u\\040v,workdir=/w\n";
        let upper = mounted(overlay).next().and_then(|mount| mount.upper);
        assert_eq!(upper, Some(PathBuf::from("/u v")));
    }
}
