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
    /// Whether it takes the CPU from tasks that run in it.
    pub preemption: Preemption,
    /// Kprobes are switched off: those that are attached do not fire, and nobody is told.
    pub kprobes_off: bool,
}

/// Whether the kernel takes the CPU from a task that runs in it. If it does so inside of one of our programs, every other
/// task on that CPU skips that program until the first one goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preemption {
    /// It never does (`preempt=none`, `preempt=voluntary`).
    Never,
    /// At the end of any slice (`preempt=full`), or with the next tick after it (`preempt=lazy`).
    Anywhere,
    /// There is no way to know.
    Unknown,
}

impl Preemption {
    /// Whether programs have to be ones that are never skipped.
    #[must_use]
    pub fn is_anywhere(self) -> bool {
        matches!(self, Self::Anywhere | Self::Unknown)
    }

    /// In words, with what follows from it.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Never => "never: fentry decides",
            Self::Anywhere => {
                "anywhere: kprobes decide, which cost more and are not skipped for that"
            }
            Self::Unknown => {
                "not known: kprobes decide, which cost more and are not skipped for preemption"
            }
        }
    }

    /// Asks the kernel, as far as it was built to tell, or else how it was built and booted.
    fn gather(version: &str, release: &str) -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let booted = || {
            let command_line = read("/proc/cmdline")?;
            let parameter = command_line
                .split_ascii_whitespace()
                .filter_map(|word| word.strip_prefix("preempt="))
                .next_back()?;
            Some(parameter.to_owned())
        };
        let built = || {
            read(&format!("/boot/config-{release}"))
                .or_else(|| read(&format!("/lib/modules/{release}/config")))
                .and_then(|configuration| built_with(&configuration))
        };
        if !version.split(' ').any(|word| word.starts_with("PREEMPT")) {
            return Self::Never;
        }
        let mode = read("/sys/kernel/debug/sched/preempt")
            .and_then(|modes| between(&modes, '(', ')'))
            .or_else(booted)
            .or_else(built);
        Self::of(mode.as_deref())
    }

    /// By the mode.
    ///
    /// `lazy` lets a task that runs in the kernel go on up to the next tick (`TIF_NEED_RESCHED_LAZY`). On a busy machine
    /// that is soon: with eight writers on two CPUs Linux 6.18 skipped fentry programs 1,500 times in ten minutes, and one
    /// change was announced after it.
    fn of(mode: Option<&str>) -> Self {
        match mode {
            Some("none" | "voluntary") => Self::Never,
            Some("full" | "lazy") => Self::Anywhere,
            _ => Self::Unknown,
        }
    }
}

/// The mode that a kernel has unless it is told otherwise, as its configuration says.
fn built_with(configuration: &str) -> Option<String> {
    let modes = [
        ("CONFIG_PREEMPT_NONE=y", "none"),
        ("CONFIG_PREEMPT_VOLUNTARY=y", "voluntary"),
        ("CONFIG_PREEMPT_LAZY=y", "lazy"),
        ("CONFIG_PREEMPT=y", "full"),
    ];
    let is_set = |option| configuration.lines().any(|line| line == option);
    let (_, mode) = modes.into_iter().find(|&(option, _)| is_set(option))?;
    Some(mode.to_owned())
}

/// Whether kprobes fire, for the whole machine.
pub const KPROBES: &str = "/sys/kernel/debug/kprobes/enabled";

/// Whether somebody has switched kprobes off. Where that cannot be read, nobody can do it either: it is said in the same file.
#[must_use]
pub fn kprobes_are_off() -> bool {
    fs::read_to_string(KPROBES).is_ok_and(|text| text.trim() == "0")
}

impl Environment {
    /// Reads them.
    #[must_use]
    pub fn gather() -> Self {
        let names = rustix::system::uname();
        let release = names.release().to_string_lossy().into_owned();
        let preemption = Preemption::gather(&names.version().to_string_lossy(), &release);
        Self {
            release,
            lsms: fs::read_to_string("/sys/kernel/security/lsm")
                .ok()
                .map(|list| lsm_list(&list)),
            lockdown: fs::read_to_string("/sys/kernel/security/lockdown")
                .ok()
                .and_then(|modes| between(&modes, '[', ']')),
            stable_pages: some_disk_is_stable(Path::new("/sys/block")),
            // If there is no way to know: what is hooked in vain costs something, what is missed costs more.
            btrfs: fs::read_to_string("/proc/filesystems")
                .map_or(true, |list| knows(&list, "btrfs")),
            preemption,
            kprobes_off: kprobes_are_off(),
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

/// The active one in a list such as `none [integrity] confidentiality`.
fn between(modes: &str, opening: char, closing: char) -> Option<String> {
    let (_, rest) = modes.split_once(opening)?;
    rest.split_once(closing).map(|(mode, _)| mode.to_owned())
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
            between("none [integrity] confidentiality\n", '[', ']').as_deref(),
            Some("integrity")
        );
        assert_eq!(between("none\n", '[', ']'), None);
    }

    #[test]
    fn preemption_is_known_from_its_mode() {
        let modes = "none voluntary full (lazy) \n";
        let mode = between(modes, '(', ')').unwrap();
        assert_eq!(Preemption::of(Some(&mode)), Preemption::Anywhere);
        assert_eq!(Preemption::of(Some("voluntary")), Preemption::Never);
        assert_eq!(Preemption::of(Some("full")), Preemption::Anywhere);
        assert_eq!(Preemption::of(Some("eager")), Preemption::Unknown);
        assert_eq!(Preemption::of(None), Preemption::Unknown);
    }

    #[test]
    fn a_configuration_names_the_mode() {
        let with = |line: &str| built_with(&format!("CONFIG_PREEMPT_BUILD=y\n{line}\n"));
        assert_eq!(
            with("CONFIG_PREEMPT_VOLUNTARY=y").as_deref(),
            Some("voluntary")
        );
        assert_eq!(with("CONFIG_PREEMPT_LAZY=y").as_deref(), Some("lazy"));
        assert_eq!(with("# CONFIG_PREEMPT is not set"), None);
    }

    #[test]
    fn only_confidentiality_forbids() {
        let with = |mode: &str| Environment {
            release: String::new(),
            lsms: None,
            lockdown: Some(mode.to_owned()),
            stable_pages: false,
            btrfs: false,
            preemption: Preemption::Never,
            kprobes_off: false,
        };
        assert!(with("confidentiality").lockdown_forbids());
        assert!(!with("integrity").lockdown_forbids());
        assert!(!with("none").bpf_lsm_is_active());
    }
}
