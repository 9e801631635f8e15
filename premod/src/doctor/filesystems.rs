//! What can be promised on each kind of filesystem.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::mounts;

/// A kind of filesystem that is mounted here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Filesystem {
    /// Its type.
    pub r#type: String,
    /// Where it is mounted; the first place, if there are several.
    pub mounted_at: String,
    /// How many mounts of this type there are.
    pub mounts: usize,
    /// What premod promises on it.
    pub promise: Promise,
}

/// What premod promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// Tested on every supported kernel.
    Tested,
    /// Keeps dirty marks in the same way, but is not among the tested ones.
    Expected,
    /// The same, and other nodes of a cluster change its files, too.
    ExpectedLocalOnly,
    /// What this machine does is seen, what others do to the same files is not.
    LocalOnly,
    /// Its files live on another filesystem, where they are seen.
    UpperOnly,
    /// Stores through mappings cannot be seen: refused.
    Refused,
}

impl Promise {
    /// In words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Tested => "every modification, before it happens (tested)",
            Self::Expected => {
                "not tested; system calls and stores are expected to be reported before they happen"
            }
            Self::ExpectedLocalOnly => {
                "not tested; the same is expected of this node, and what other nodes change is not seen"
            }
            Self::LocalOnly => {
                "modifications by this machine; what others change on the server is not seen"
            }
            Self::UpperOnly => "events come from the upper filesystem, with its inodes",
            Self::Refused => "refused as PATH: a store through a mapping cannot be seen",
        }
    }
}

/// What is promised on a filesystem of this type; `None` if it has no files that could be traced.
fn promise(filesystem: &str) -> Option<Promise> {
    Some(match filesystem {
        "ext4" | "xfs" | "btrfs" => Promise::Tested,
        "ext2" | "ext3" | "f2fs" | "vfat" | "exfat" | "ntfs3" | "udf" | "jfs" | "nilfs2"
        | "bcachefs" | "zonefs" => Promise::Expected,
        "ocfs2" | "gfs2" => Promise::ExpectedLocalOnly,
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "9p" | "virtiofs" | "fuse" | "fuseblk"
        | "afs" => Promise::LocalOnly,
        "overlay" => Promise::UpperOnly,
        "tmpfs" | "devtmpfs" | "hugetlbfs" | "ramfs" => Promise::Refused,
        other if other.starts_with("fuse.") => Promise::LocalOnly,
        _ => return None,
    })
}

/// The kinds that are mounted, by type.
#[must_use]
pub fn mounted() -> Vec<Filesystem> {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    from_table(&String::from_utf8_lossy(&table))
}

fn from_table(table: &str) -> Vec<Filesystem> {
    let mut kinds: BTreeMap<&str, Filesystem> = BTreeMap::new();
    for line in table.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let (Some(point), Some(kind)) = (before.split(' ').nth(4), after.split(' ').next()) else {
            continue;
        };
        let Some(promise) = promise(kind) else {
            continue;
        };
        let filesystem = kinds.entry(kind).or_insert_with(|| Filesystem {
            r#type: plain(kind),
            mounted_at: plain(point),
            mounts: 0,
            promise,
        });
        filesystem.mounts += 1;
    }
    kinds.into_values().collect()
}

fn plain(field: &str) -> String {
    String::from_utf8_lossy(&mounts::unescape(field.as_bytes())).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_and_pseudo_filesystems_left_out() {
        let table = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw - proc proc rw
24 22 0:21 / /tmp rw - tmpfs tmpfs rw
25 22 0:22 / /run rw - tmpfs tmpfs rw
";
        let found = from_table(table);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].r#type.as_str(), found[0].promise),
            ("ext4", Promise::Tested)
        );
        assert_eq!((found[1].mounts, found[1].promise), (2, Promise::Refused));
        assert_eq!(found[1].mounted_at, "/tmp");
    }

    #[test]
    fn only_what_was_tested_is_promised() {
        let every = |kind| {
            promise(kind)
                .unwrap()
                .describe()
                .starts_with("every modification")
        };
        assert!(["ext4", "xfs", "btrfs"].into_iter().all(every));
        assert!(
            !["f2fs", "zonefs", "gfs2", "ocfs2", "nfs", "overlay"]
                .into_iter()
                .any(every)
        );
        for cluster in ["gfs2", "ocfs2"] {
            let promise = promise(cluster).unwrap().describe();
            assert!(
                promise.contains("what other nodes change is not seen"),
                "{promise}"
            );
        }
    }

    #[test]
    fn names_are_as_they_were_given() {
        let table = "25 22 0:22 / /mnt/a\\040b rw - fuse.my\\040\x1b[2J none rw\n";
        let found = from_table(table);
        assert_eq!(found[0].mounted_at, "/mnt/a b");
        assert_eq!(found[0].r#type, "fuse.my \x1b[2J");
    }
}
