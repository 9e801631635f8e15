//! Capabilities: which are needed, which are missing, and giving them up.

use anyhow::Result;
use caps::{CapSet, Capability, CapsHashSet};
use rustix::thread::set_no_new_privs;

use crate::namespaces::{self, Kind};

/// What loading and attaching needs. `CAP_SYS_ADMIN` stands for both.
const NEEDED: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_PERFMON];

/// What is kept besides: looking at PATHs, and at what is mounted below them, in directories that others keep to
/// themselves (0700, as those of databases and users are).
const KEPT_TO_LOOK: Capability = Capability::CAP_DAC_READ_SEARCH;

/// The needed capabilities that this process does not have, by name.
#[must_use]
pub fn missing() -> Vec<String> {
    missing_from(&effective())
}

/// What freezing needs besides: stopping others' processes, looking into them, pinning maps.
const NEEDED_TO_FREEZE: [Capability; 3] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_KILL,
    Capability::CAP_SYS_PTRACE,
];

/// As [`missing`], for a freeze.
#[must_use]
pub fn missing_for_freeze() -> Vec<String> {
    let effective = effective();
    NEEDED_TO_FREEZE
        .iter()
        .filter(|needed| !effective.contains(needed))
        .map(ToString::to_string)
        .collect()
}

/// Gives up every capability that a freeze does not need any more once its programs hang: it still stops
/// processes, looks into them, uses its maps, and looks whether its files are in their places. CMD has to run already:
/// what it starts could not gain privileges any more.
///
/// # Errors
/// If the kernel refuses, which it does not for a subset.
pub fn drop_all_but_needed_to_freeze() -> Result<()> {
    let mut kept = NEEDED.to_vec();
    kept.extend(NEEDED_TO_FREEZE);
    kept.retain(|kept| *kept != Capability::CAP_SYS_ADMIN);
    kept.push(KEPT_TO_LOOK);
    drop_all_but(&kept)
}

/// What this process may do to the machine: those that it has in a user namespace of its own do not count.
fn effective() -> CapsHashSet {
    if namespaces::is_in_another(Kind::User) {
        return CapsHashSet::new();
    }
    caps::read(None, CapSet::Effective).unwrap_or_default()
}

fn missing_from(effective: &CapsHashSet) -> Vec<String> {
    if effective.contains(&Capability::CAP_SYS_ADMIN) {
        return Vec::new();
    }
    NEEDED
        .iter()
        .filter(|needed| !effective.contains(needed))
        .map(ToString::to_string)
        .collect()
}

/// The effective capabilities that premod cares about, by name.
#[must_use]
pub fn present() -> Vec<String> {
    let effective = effective();
    NEEDED
        .iter()
        .chain(&[Capability::CAP_SYS_ADMIN])
        .filter(|capability| effective.contains(capability))
        .map(ToString::to_string)
        .collect()
}

/// Gives up every capability that tracing does not need any more: it still enrols what is mounted later, wherever that
/// is, and reads maps. Kernels that need `CAP_SYS_ADMIN` for BPF do not exist among the supported ones. CMD has to run
/// already: what it starts could not gain privileges any more.
///
/// # Errors
/// If the kernel refuses, which it does not for a subset.
pub fn drop_all_but_needed() -> Result<()> {
    let mut kept = NEEDED.to_vec();
    kept.push(KEPT_TO_LOOK);
    drop_all_but(&kept)
}

/// Gives up every capability of a thread that only computes and writes.
///
/// # Errors
/// If the kernel refuses, which it does not for a subset.
pub(crate) fn drop_all() -> Result<()> {
    drop_all_but(&[])
}

/// Both are this thread's, and those of threads and processes that it starts from then on.
fn drop_all_but(kept: &[Capability]) -> Result<()> {
    set_no_new_privs(true)?;
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = kept
        .iter()
        .copied()
        .filter(|kept| permitted.contains(kept))
        .collect();
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_ones_are_named() {
        assert_eq!(
            missing_from(&CapsHashSet::new()),
            ["CAP_BPF", "CAP_PERFMON"]
        );
        let bpf = CapsHashSet::from([Capability::CAP_BPF]);
        assert_eq!(missing_from(&bpf), ["CAP_PERFMON"]);
        let admin = CapsHashSet::from([Capability::CAP_SYS_ADMIN]);
        assert!(missing_from(&admin).is_empty());
    }
}
