//! What a freeze does, rule by rule, so that each can be left out.

use crate::model::{LEFT_STOPPED, MODIFIED, UNTOLD, World};

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
    /// When the switch is closed, users of mappings are looked for again.
    pub(crate) holds_users_again: bool,
    /// All threads, and processes that share their memory, are held, and not only who was found first.
    pub(crate) holds_all_users: bool,
    /// Users of mappings are waited for until they stand still.
    pub(crate) waits_for_users: bool,
    /// A store that is stopped while others have the same memory counts as a modification.
    pub(crate) tells_of_company: bool,
    /// Hooks see that somebody else continues a process that was stopped at a store.
    pub(crate) sees_sigcont: bool,
    /// At the end of a fault whose store was to be stopped, a hook looks whether the stop is still pending.
    pub(crate) looks_at_its_stop: bool,
    /// The list of the stopped outlives premod and its keeper.
    pub(crate) pins_the_list: bool,
}

impl Rules {
    /// As premod does it (premod/src/freeze/gate.rs, hold/keeper.rs and premod-ebpf/src/freeze).
    pub(crate) const AS_BUILT: Self = Self {
        waits_for_hooks: true,
        waits_for_earlier: true,
        waits_for_flights: true,
        flushes: true,
        verifies: true,
        sees: true,
        notes_first: true,
        continues_twice: true,
        holds_users_again: true,
        holds_all_users: true,
        waits_for_users: true,
        tells_of_company: true,
        sees_sigcont: true,
        looks_at_its_stop: true,
        pins_the_list: true,
    };
}

/// A freeze without one of its rules.
pub(crate) struct Mutant {
    pub(crate) without: &'static str,
    pub(crate) rules: Rules,
    pub(crate) world: World,
    /// The promise that it breaks there.
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
        world: World::Alone,
        breaks: UNTOLD,
    },
    Mutant {
        without: "flights are waited for; hooks see who comes through",
        rules: Rules {
            waits_for_flights: false,
            sees: false,
            ..Rules::AS_BUILT
        },
        world: World::Alone,
        breaks: UNTOLD,
    },
    Mutant {
        without: "hooks are waited for; hooks see who comes through",
        rules: Rules {
            waits_for_hooks: false,
            sees: false,
            ..Rules::AS_BUILT
        },
        world: World::Alone,
        breaks: UNTOLD,
    },
    Mutant {
        without: "files are flushed",
        rules: Rules {
            flushes: false,
            ..Rules::AS_BUILT
        },
        world: World::Alone,
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
        world: World::Alone,
        breaks: MODIFIED,
    },
    Mutant {
        without: "a process is noted before it is stopped",
        rules: Rules {
            notes_first: false,
            waits_for_hooks: false,
            ..Rules::AS_BUILT
        },
        world: World::Alone,
        breaks: LEFT_STOPPED,
    },
    Mutant {
        without: "the list is gone through again",
        rules: Rules {
            continues_twice: false,
            ..Rules::AS_BUILT
        },
        world: World::Alone,
        breaks: LEFT_STOPPED,
    },
    Mutant {
        without: "hooks are waited for at the thaw",
        rules: Rules {
            waits_for_hooks: false,
            ..Rules::AS_BUILT
        },
        world: World::Alone,
        breaks: LEFT_STOPPED,
    },
    Mutant {
        without: "users of mappings are looked for again",
        rules: Rules {
            holds_users_again: false,
            ..Rules::AS_BUILT
        },
        world: World::Together,
        breaks: MODIFIED,
    },
    Mutant {
        without: "everybody who has the memory is held",
        rules: Rules {
            holds_all_users: false,
            ..Rules::AS_BUILT
        },
        world: World::Together,
        breaks: MODIFIED,
    },
    Mutant {
        without: "users of mappings are waited for",
        rules: Rules {
            waits_for_users: false,
            ..Rules::AS_BUILT
        },
        world: World::Together,
        breaks: MODIFIED,
    },
    Mutant {
        without: "a stopped store counts if others have the memory",
        rules: Rules {
            tells_of_company: false,
            ..Rules::AS_BUILT
        },
        world: World::Together,
        breaks: UNTOLD,
    },
    Mutant {
        without: "SIGCONT by others is seen",
        rules: Rules {
            sees_sigcont: false,
            ..Rules::AS_BUILT
        },
        world: World::Alone,
        breaks: UNTOLD,
    },
    Mutant {
        without: "a stop is looked at when its fault ends",
        rules: Rules {
            looks_at_its_stop: false,
            ..Rules::AS_BUILT
        },
        world: World::Alone,
        breaks: UNTOLD,
    },
    Mutant {
        without: "the list of the stopped is pinned",
        rules: Rules {
            pins_the_list: false,
            ..Rules::AS_BUILT
        },
        world: World::Alone,
        breaks: LEFT_STOPPED,
    },
];
