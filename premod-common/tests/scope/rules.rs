//! What keeps a verdict true, rule by rule, so that each can be left out.

/// The rules by which verdicts are found and kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A rename of a directory begins an epoch when the new names are in place.
    pub(crate) renames_begin_epochs: bool,
    /// What a search has found holds only if no epoch has begun meanwhile.
    pub(crate) looks_at_epoch_again: bool,
    /// Entries that the kernel side does not have come before any change of what it expects.
    pub(crate) new_entries_first: bool,
    /// An epoch begins between the two.
    pub(crate) epoch_after_new_entries: bool,
    /// Names that are not needed any more go after that.
    pub(crate) old_names_last: bool,
    /// A quiet slot gets the epoch that its verdict was found in.
    pub(crate) slots_get_epoch_of_verdict: bool,
    /// A directory's verdict is not used when a rename has begun since.
    pub(crate) renames_begin_before_they_move: bool,
    /// None is kept that was found while a rename was under way.
    pub(crate) keeps_none_during_renames: bool,
}

impl Rules {
    /// As premod does it (premod/src/scope.rs, premod-ebpf/src/scope.rs, scope/search.rs, scope/parents.rs
    /// and quiet.rs).
    pub(crate) const AS_BUILT: Self = Self {
        renames_begin_epochs: true,
        looks_at_epoch_again: true,
        new_entries_first: true,
        epoch_after_new_entries: true,
        old_names_last: true,
        slots_get_epoch_of_verdict: true,
        renames_begin_before_they_move: true,
        keeps_none_during_renames: true,
    };
}

/// The rules without one of them.
pub(crate) struct Mutant {
    pub(crate) without: &'static str,
    pub(crate) rules: Rules,
}

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        without: "renames begin epochs",
        rules: Rules {
            renames_begin_epochs: false,
            ..Rules::AS_BUILT
        },
    },
    Mutant {
        without: "the epoch is looked at again after a search",
        rules: Rules {
            looks_at_epoch_again: false,
            ..Rules::AS_BUILT
        },
    },
    Mutant {
        without: "new entries come first",
        rules: Rules {
            new_entries_first: false,
            ..Rules::AS_BUILT
        },
    },
    Mutant {
        without: "an epoch begins when they are in place",
        rules: Rules {
            epoch_after_new_entries: false,
            ..Rules::AS_BUILT
        },
    },
    Mutant {
        without: "old names go last",
        rules: Rules {
            old_names_last: false,
            ..Rules::AS_BUILT
        },
    },
    Mutant {
        without: "a slot gets the epoch of its verdict",
        rules: Rules {
            slots_get_epoch_of_verdict: false,
            ..Rules::AS_BUILT
        },
    },
    Mutant {
        without: "a rename that begins makes directories' verdicts void",
        rules: Rules {
            renames_begin_before_they_move: false,
            ..Rules::AS_BUILT
        },
    },
    Mutant {
        without: "none of them is kept while a rename is under way",
        rules: Rules {
            keeps_none_during_renames: false,
            ..Rules::AS_BUILT
        },
    },
];
