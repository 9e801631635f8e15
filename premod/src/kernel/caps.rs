//! Capabilities: which are needed, which are missing, and giving them up.

use caps::{CapSet, Capability, CapsHashSet};

/// What loading and attaching needs. `CAP_SYS_ADMIN` stands for both.
const NEEDED: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_PERFMON];

/// What is kept while tracing: enough to enrol new mounts and to read maps.
const KEPT: [Capability; 2] = NEEDED;

/// The needed capabilities that this process does not have, by name.
#[must_use]
pub fn missing() -> Vec<String> {
    let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
    missing_from(&effective)
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
    let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
    NEEDED_TO_FREEZE
        .iter()
        .filter(|needed| !effective.contains(needed))
        .map(ToString::to_string)
        .collect()
}

/// Gives up every capability that a freeze does not need any more once its programs hang: it still stops
/// processes, looks into them, and uses its maps.
///
/// # Errors
/// If the kernel refuses, which it does not for a subset.
pub fn drop_all_but_needed_to_freeze() -> Result<(), caps::errors::CapsError> {
    let mut kept = KEPT.to_vec();
    kept.extend(NEEDED_TO_FREEZE);
    kept.retain(|kept| *kept != Capability::CAP_SYS_ADMIN);
    drop_all_but(&kept)
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
    let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
    NEEDED
        .iter()
        .chain(&[Capability::CAP_SYS_ADMIN])
        .filter(|capability| effective.contains(capability))
        .map(ToString::to_string)
        .collect()
}

/// Gives up every capability that tracing does not need any more. Kernels that need `CAP_SYS_ADMIN` for
/// BPF do not exist among the supported ones.
///
/// Whoever watches PATHs has to be able to look them up, and mount points below them, in directories of others too.
///
/// # Errors
/// If the kernel refuses, which it does not for a subset.
pub fn drop_all_but_needed(watches_paths: bool) -> Result<(), caps::errors::CapsError> {
    let mut kept = KEPT.to_vec();
    if watches_paths {
        kept.push(Capability::CAP_DAC_READ_SEARCH);
    }
    drop_all_but(&kept)
}

fn drop_all_but(kept: &[Capability]) -> Result<(), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = kept
        .iter()
        .copied()
        .filter(|kept| permitted.contains(kept))
        .collect();
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())
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
