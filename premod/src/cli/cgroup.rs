//! The cgroup of an option.

use std::{fs::File, os::unix::fs::MetadataExt, path::Path};

use rustix::fs::fstatfs;

use crate::{cgroups::CGROUP2_MAGIC, output::Cgroup};

/// A cgroup and those below it, or with `=` before it that one alone: its directory, or its id, which is the inode
/// number of the directory.
pub(super) fn cgroup(text: &str) -> Result<Cgroup, String> {
    match text.strip_prefix('=') {
        Some(alone) => id(alone).map(Cgroup::Alone),
        None if text.parse::<u64>().is_ok() => id(text).map(Cgroup::Tree),
        None => id(text).map(|_| Cgroup::Directory(text.into())),
    }
}

fn id(text: &str) -> Result<u64, String> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let cannot = |error: std::io::Error| format!("neither an id nor a directory: {error}");
    let directory = File::open(Path::new(text)).map_err(cannot)?;
    let metadata = directory.metadata().map_err(cannot)?;
    let magic = fstatfs(&directory).map_err(|error| cannot(error.into()))?;
    if metadata.is_dir() && magic.f_type as u64 == CGROUP2_MAGIC {
        return Ok(metadata.ino());
    }
    Err("not a directory of a cgroup2 filesystem, such as those below /sys/fs/cgroup".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_understood() {
        assert_eq!(cgroup("4242"), Ok(Cgroup::Tree(4242)));
        assert_eq!(cgroup("=4242"), Ok(Cgroup::Alone(4242)));
        for wrong in ["", "=", "==1", "-1", "/no/such/cgroup", "/dev/null"] {
            assert!(cgroup(wrong).is_err(), "{wrong}");
        }
        for elsewhere in ["/proc", "=/proc"] {
            let sentence = cgroup(elsewhere).unwrap_err();
            assert!(sentence.contains("cgroup2"), "{sentence}");
        }
    }
}
