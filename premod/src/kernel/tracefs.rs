//! tracefs, which says how the kernel prints its tracepoints, and so what some constants are that type information does not
//! have.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

/// Where it is mounted, if it is.
const MOUNTED: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// What a file of it says. Where it is not mounted, as in containers, it is mounted for us alone, in no directory.
pub(super) fn read(file: &str) -> Option<String> {
    let mounted = MOUNTED
        .iter()
        .find_map(|root| fs::read_to_string(Path::new(root).join(file)).ok());
    mounted.or_else(|| read_below(mount().ok()?, file).ok())
}

/// A mount that only its descriptor leads to, and that goes with it.
fn mount() -> rustix::io::Result<OwnedFd> {
    let filesystem = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(filesystem.as_fd())?;
    fsmount(
        filesystem.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
}

fn read_below(root: OwnedFd, file: &str) -> io::Result<String> {
    let file = openat(root, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    Ok(text)
}

/// Finds `{(1 << 2), "NAME"}` or `{0x4, "NAME"}` in a tracepoint's print format.
pub(super) fn flag(format: &str, name: &str) -> Option<u32> {
    let (before, _) = format.split_once(&format!("\"{name}\""))?;
    let (_, value) = before.rsplit_once('{')?;
    let value = value.trim_matches(|c: char| c == ',' || c.is_whitespace());
    let value = value.trim_start_matches('(').trim_end_matches(')');
    match value.split_once("<<") {
        Some((one, shift)) => {
            let one: u32 = one
                .trim()
                .trim_end_matches(['U', 'L', 'u', 'l'])
                .parse()
                .ok()?;
            one.checked_shl(shift.trim().parse().ok()?)
        }
        None => u32::from_str_radix(value.trim().strip_prefix("0x")?, 16).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_from_both_spellings() {
        let format = r#"__print_flags(REC->flags, "|", {(1 << 0), "I_DIRTY_SYNC"}, {(1 << 5), "I_DIRTY_PAGES"})"#;
        assert_eq!(flag(format, "I_DIRTY_PAGES"), Some(32));
        assert_eq!(flag(format, "I_DIRTY_SYNC"), Some(1));
        assert_eq!(
            flag(r#"{ 0x4, "I_DIRTY_PAGES" }"#, "I_DIRTY_PAGES"),
            Some(4)
        );
        assert_eq!(
            flag(r#"{ I_DIRTY_PAGES, "I_DIRTY_PAGES" }"#, "I_DIRTY_PAGES"),
            None
        );
        assert_eq!(flag("", "I_DIRTY_PAGES"), None);
    }
}
