//! What the running kernel says about itself: version, LSMs, lockdown.

use std::{fs, path::Path};

/// Facts about the environment that decide how premod attaches.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Environment {
    /// `uname -r`.
    pub release: String,
    /// The active LSMs, in order; `None` if securityfs is not mounted.
    pub lsms: Option<Vec<String>>,
    /// The lockdown mode: none, integrity or confidentiality; `None` if the kernel has no lockdown.
    pub lockdown: Option<String>,
    /// Some disk wants pages not to change while they are written back (checksums, parity), so that the kernel
    /// makes writers wait (`queue/stable_writes`).
    pub stable_pages: bool,
    /// btrfs is built in, or its module is loaded (`/proc/filesystems`).
    pub btrfs: bool,
}

impl Environment {
    /// Reads them.
    #[must_use]
    pub fn gather() -> Self {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        Self {
            release,
            lsms: fs::read_to_string("/sys/kernel/security/lsm")
                .ok()
                .map(|list| lsm_list(&list)),
            lockdown: fs::read_to_string("/sys/kernel/security/lockdown")
                .ok()
                .and_then(|modes| active_mode(&modes)),
            stable_pages: some_disk_is_stable(Path::new("/sys/block")),
            // If there is no way to know: what is hooked in vain costs something, what is missed costs more.
            btrfs: fs::read_to_string("/proc/filesystems")
                .map_or(true, |list| knows(&list, "btrfs")),
        }
    }

    /// Whether LSM programs are called. Without securityfs there is no way to know, and fentry works.
    #[must_use]
    pub fn bpf_lsm_is_active(&self) -> bool {
        self.lsms
            .as_ref()
            .is_some_and(|lsms| lsms.iter().any(|lsm| lsm == "bpf"))
    }

    /// Whether lockdown keeps BPF programs from reading kernel memory (`LOCKDOWN_BPF_READ_KERNEL`).
    #[must_use]
    pub fn lockdown_forbids(&self) -> bool {
        self.lockdown.as_deref() == Some("confidentiality")
    }
}

fn knows(filesystems: &str, name: &str) -> bool {
    filesystems
        .lines()
        .any(|line| line.split_whitespace().next_back() == Some(name))
}

fn some_disk_is_stable(disks: &Path) -> bool {
    let Ok(disks) = fs::read_dir(disks) else {
        return false;
    };
    disks.flatten().any(|disk| {
        fs::read_to_string(disk.path().join("queue/stable_writes"))
            .is_ok_and(|text| text.trim() == "1")
    })
}

fn lsm_list(list: &str) -> Vec<String> {
    list.trim()
        .split(',')
        .filter(|lsm| !lsm.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `none [integrity] confidentiality` -> `integrity`
fn active_mode(modes: &str) -> Option<String> {
    let (_, rest) = modes.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_modes_are_understood() {
        assert_eq!(lsm_list("lockdown,yama,bpf\n"), ["lockdown", "yama", "bpf"]);
        assert!(lsm_list("\n").is_empty());
        let list = "nodev\tsysfs\n\text4\n\tbtrfs\n";
        assert!(knows(list, "btrfs") && knows(list, "sysfs") && !knows(list, "xfs"));
        assert_eq!(
            active_mode("none [integrity] confidentiality\n").as_deref(),
            Some("integrity")
        );
        assert_eq!(active_mode("none\n"), None);
    }

    #[test]
    fn only_confidentiality_forbids() {
        let with = |mode: &str| Environment {
            release: String::new(),
            lsms: None,
            lockdown: Some(mode.to_owned()),
            stable_pages: false,
            btrfs: false,
        };
        assert!(with("confidentiality").lockdown_forbids());
        assert!(!with("integrity").lockdown_forbids());
        assert!(!with("none").bpf_lsm_is_active());
    }
}
