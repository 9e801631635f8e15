//! What a freeze does, rule by rule, so that each can be left out.

use crate::model::{LEFT_STOPPED, UNTOLD};

/// The rules by which a freeze goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Hooks count themselves before they look at the switch, and whoever sets it waits for them.
    pub(crate) waits_for_hooks: bool,
    /// Who was modifying before the programs hung is waited for.
    pub(crate) waits_for_earlier: bool,
    /// Who has passed its check before the switch was closed is waited for.
    pub(crate) waits_for_flights: bool,
    /// The files are flushed, so that each store faults again.
    pub(crate) flushes: bool,
    /// A modification that was seen since the flush began, or a page that is dirty, leads to another flush.
    pub(crate) verifies: bool,
    /// Hooks see who comes through although the switch is closed.
    pub(crate) sees: bool,
    /// A process is noted before it is stopped.
    pub(crate) notes_first: bool,
    /// When everybody obeys the open switch, the list of the stopped is gone through again.
    pub(crate) continues_twice: bool,
}

impl Rules {
    /// As premod does it (premod/src/freeze/freezer.rs, keeper.rs and premod-ebpf/src/freeze).
    pub(crate) const AS_BUILT: Self = Self {
        waits_for_hooks: true,
        waits_for_earlier: true,
        waits_for_flights: true,
        flushes: true,
        verifies: true,
        sees: true,
        notes_first: true,
        continues_twice: true,
    };
}

/// A freeze without one of its rules.
pub(crate) struct Mutant {
    pub(crate) without: &'static str,
    pub(crate) rules: Rules,
    /// The promise that it breaks.
    pub(crate) breaks: &'static str,
}

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        without: "hooks see who comes through; earlier modifiers are not waited for",
        rules: Rules {
            waits_for_earlier: false,
            sees: false,
            ..Rules::AS_BUILT
        },
        breaks: UNTOLD,
    },
    Mutant {
        without: "flights are waited for; hooks see who comes through",
        rules: Rules {
            waits_for_flights: false,
            sees: false,
            ..Rules::AS_BUILT
        },
        breaks: UNTOLD,
    },
    Mutant {
        without: "hooks are waited for; hooks see who comes through",
        rules: Rules {
            waits_for_hooks: false,
            sees: false,
            ..Rules::AS_BUILT
        },
        breaks: UNTOLD,
    },
    Mutant {
        without: "files are flushed",
        rules: Rules {
            flushes: false,
            ..Rules::AS_BUILT
        },
        breaks: UNTOLD,
    },
    Mutant {
        without: "the flush is verified; flights are waited for",
        rules: Rules {
            verifies: false,
            waits_for_flights: false,
            waits_for_earlier: false,
            ..Rules::AS_BUILT
        },
        breaks: UNTOLD,
    },
    Mutant {
        without: "a process is noted before it is stopped",
        rules: Rules {
            notes_first: false,
            waits_for_hooks: false,
            ..Rules::AS_BUILT
        },
        breaks: LEFT_STOPPED,
    },
    Mutant {
        without: "the list is gone through again",
        rules: Rules {
            continues_twice: false,
            ..Rules::AS_BUILT
        },
        breaks: LEFT_STOPPED,
    },
    Mutant {
        without: "hooks are waited for at the thaw",
        rules: Rules {
            waits_for_hooks: false,
            ..Rules::AS_BUILT
        },
        breaks: LEFT_STOPPED,
    },
];
