//! What a freeze means for those who use its files.

use premod_common::guard::{MmapPolicy, Mode};

use super::User;
use crate::freeze::Terms;

/// What happens to a process that uses a file which is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stands still before anybody is kept out, until the thaw.
    HeldBeforehand,
    /// It goes on until it writes by a system call.
    HeldAtWrite,
    /// It goes on until it writes, or stores through its mapping.
    HeldAtWriteOrStore,
    /// It goes on until it stores through its mapping, and is killed before that.
    KilledAtStore,
    /// It is left alone. If it stores through its mapping, the freeze is violated.
    LeftAlone,
    /// What it writes by system calls fails.
    Refused,
}

impl Fate {
    /// In words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::HeldBeforehand => "held from the beginning",
            Self::HeldAtWrite => "held if it writes",
            Self::HeldAtWriteOrStore => "held if it writes, stopped if it stores",
            Self::KilledAtStore => "killed if it stores",
            Self::LeftAlone => "left alone; a store violates the freeze",
            Self::Refused => "its writes fail",
        }
    }
}

impl User {
    /// What becomes of it if the files are frozen on these terms.
    #[must_use]
    pub fn fate(&self, terms: &Terms) -> Fate {
        if self.maps() {
            return match terms.mmap {
                _ if self.is_held_for_its_mapping(terms.mmap) => Fate::HeldBeforehand,
                MmapPolicy::Stop | MmapPolicy::Hold => Fate::HeldAtWriteOrStore,
                MmapPolicy::Kill => Fate::KilledAtStore,
                MmapPolicy::Report => Fate::LeftAlone,
            };
        }
        match terms.mode {
            Mode::Deny => Fate::Refused,
            // Its requests could not be repeated.
            Mode::Hold if self.has_ring() => Fate::HeldBeforehand,
            Mode::Hold => Fate::HeldAtWrite,
        }
    }

    /// Whether one that has a file mapped is held beforehand: where everybody is, or because its stores could not be
    /// stopped one by one, as another thread could use the page while one faults, or a tracer decides whether they stop.
    pub(in crate::freeze) fn is_held_for_its_mapping(&self, policy: MmapPolicy) -> bool {
        match policy {
            MmapPolicy::Stop => true,
            MmapPolicy::Hold | MmapPolicy::Kill => self.evades_a_stop(),
            MmapPolicy::Report => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{errno::Errno, freeze::Access};

    fn user(mapped: bool, threads: usize) -> User {
        let access = Access { open: true, mapped };
        User {
            // There is none of that number, so that it has no ring.
            pid: u32::MAX >> 1,
            started: 1,
            comm: "db".into(),
            threads,
            shares_memory: false,
            files: vec![(0, access)],
        }
    }

    #[test]
    fn what_happens_is_decided_by_the_terms_and_by_how_the_file_is_used() {
        use Fate::{
            HeldAtWrite, HeldAtWriteOrStore, HeldBeforehand, KilledAtStore, LeftAlone, Refused,
        };
        let fates = |mmap, errno: Option<Errno>| {
            let mode = errno.map_or(Mode::Hold, |_| Mode::Deny);
            let terms = Terms { mode, errno, mmap };
            [user(false, 2), user(true, 1), user(true, 2)].map(|user| user.fate(&terms))
        };
        let deny = Some(Errno(30));
        assert_eq!(
            fates(MmapPolicy::Stop, None),
            [HeldAtWrite, HeldBeforehand, HeldBeforehand]
        );
        assert_eq!(
            fates(MmapPolicy::Stop, deny),
            [Refused, HeldBeforehand, HeldBeforehand]
        );
        assert_eq!(
            fates(MmapPolicy::Hold, None),
            [HeldAtWrite, HeldAtWriteOrStore, HeldBeforehand]
        );
        assert_eq!(
            fates(MmapPolicy::Kill, deny),
            [Refused, KilledAtStore, HeldBeforehand]
        );
        assert_eq!(
            fates(MmapPolicy::Report, None),
            [HeldAtWrite, LeftAlone, LeftAlone]
        );
    }
}
