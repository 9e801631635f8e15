//! Protocols with one rule changed, to see that the promises notice.

use premod_common::generation::{self, Announcement, Step, Touch, Word};

use crate::{
    hook::PAGED,
    property::Broken,
    protocol::{AS_COMPILED, Protocol},
    state::Kind,
};

const PHASE: u64 = 0b11;
const EMITTING: u64 = 1;
const ANNOUNCED: u64 = 2;
const LOST: u64 = 3;
const UNPAGED: u64 = 1 << 3;
const SYNCED: u64 = 1 << 4;
const MARKED: u64 = 1 << 5;

const fn phase(word: Word) -> u64 {
    word.0 & PHASE
}

/// A changed rule, where it shows, and what notices.
pub(crate) struct Mutant {
    pub(crate) rule: &'static str,
    pub(crate) configuration: &'static str,
    pub(crate) breaks: Broken,
    pub(crate) protocol: Protocol,
}

pub(crate) const ALL: &[Mutant] = &[
    Mutant {
        rule: "a clean mapping settles before any page was dirtied",
        configuration: "two writers and the flusher",
        breaks: Broken::SecondEvent,
        protocol: Protocol {
            touch: |word, mapping, touch| {
                let paged = phase(word) == ANNOUNCED;
                generation::touch(Word(word.0 | if paged { PAGED } else { 0 }), mapping, touch)
            },
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "a touch during delivery is silent",
        configuration: "two writers and the flusher",
        breaks: Broken::SilentUndelivered,
        protocol: Protocol {
            touch: |word, mapping, touch| {
                if phase(word) == EMITTING {
                    return Step::Nothing;
                }
                generation::touch(word, mapping, touch)
            },
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "a lost announcement counts as delivered",
        configuration: "a full buffer, writers and the flusher",
        breaks: Broken::SilentUndelivered,
        protocol: Protocol {
            announced: |word, generation, _| generation::announced(word, generation, true),
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "an echo that was delivered does not make up for a loss",
        configuration: "a full buffer, writers and the flusher",
        breaks: Broken::Unannounced,
        protocol: Protocol {
            announced: |word, generation, delivered| {
                if phase(word) == LOST {
                    return Step::Nothing;
                }
                generation::announced(word, generation, delivered)
            },
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "no second touch under the inode lock",
        configuration: "writes one after the other, and the flusher",
        breaks: Broken::Unannounced,
        protocol: Protocol {
            touches_again: false,
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "eviction leaves the entry",
        configuration: "eviction, and reuse of the memory",
        breaks: Broken::Inherited,
        protocol: Protocol {
            deletes_evicted: false,
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "a further unpaged change keeps the sync of the one before",
        configuration: "truncate, store and fsync",
        breaks: Broken::EndedEarly,
        protocol: Protocol {
            touch: |word, mapping, touch| match generation::touch(word, mapping, touch) {
                Step::Store(new) if phase(new) == ANNOUNCED => {
                    Step::Store(Word(new.0 | word.0 & SYNCED))
                }
                step => step,
            },
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "a sync is not noted",
        configuration: "truncate, direct write and fsync",
        breaks: Broken::Unannounced,
        protocol: Protocol {
            synced: |_| Step::Nothing,
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "the dirty mark alone decides, unpaged changes or not",
        configuration: "truncate, store and fsync",
        breaks: Broken::SecondEvent,
        protocol: Protocol {
            touch: |word, mapping, touch: Touch| {
                let plain = Touch {
                    unpaged: false,
                    ..touch
                };
                let paged = if phase(word) == ANNOUNCED { PAGED } else { 0 };
                generation::touch(Word(word.0 & !UNPAGED | paged), mapping, plain)
            },
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "the net runs after the mark",
        configuration: "a long write, stores and the flusher",
        breaks: Broken::NotLate,
        protocol: Protocol {
            net_precedes_mark: false,
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "the mark is not noted after the net",
        configuration: "two writers and the flusher",
        breaks: Broken::Unannounced,
        protocol: Protocol {
            dirtied: |word, mapping, own| match generation::dirtied(word, mapping, own) {
                Step::Store(new) if new.0 & !MARKED == word.0 & !MARKED => Step::Nothing,
                Step::Store(new) => Step::Store(Word(new.0 & !MARKED)),
                step => step,
            },
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "premod's own touch counts as announced",
        configuration: "premod's own writes among others'",
        breaks: Broken::SilentUndelivered,
        protocol: Protocol {
            touch: |word, mapping, touch| {
                if touch.own
                    && let Step::Announce(new, _) = generation::touch(
                        word,
                        mapping,
                        Touch {
                            own: false,
                            ..touch
                        },
                    )
                {
                    return Step::Store(Word(new.0 & !PHASE | ANNOUNCED));
                }
                generation::touch(word, mapping, touch)
            },
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "the reader drops no duplicates",
        configuration: "two writers and the flusher",
        breaks: Broken::DeliveredTwice,
        protocol: Protocol {
            is_duplicate: |_, _| false,
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "the reader takes a first event after a retry for another one",
        configuration: "a full buffer, a store, a write and the flusher",
        breaks: Broken::DeliveredTwice,
        protocol: Protocol {
            is_duplicate: |seen, kind| match kind {
                Kind::Echo | Kind::Retry => seen.accepted,
                _ => seen.echoed,
            },
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "the time of the announcement is read after the swap",
        configuration: "direct writes and syncfs",
        breaks: Broken::Unannounced,
        protocol: Protocol {
            clock_precedes_swap: false,
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "a loss is not noted",
        configuration: "a full buffer, writers and the flusher",
        breaks: Broken::LossUncounted,
        protocol: Protocol {
            announced: |word, generation, delivered| {
                if delivered {
                    generation::announced(word, generation, true)
                } else {
                    Step::Nothing
                }
            },
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "every first page begins a generation",
        configuration: "two writers and the flusher",
        breaks: Broken::SecondEvent,
        protocol: Protocol {
            dirtied: |word, mapping, own| {
                let settled = phase(word) == ANNOUNCED && word.0 & PAGED == 0;
                generation::dirtied(Word(word.0 | if settled { PAGED } else { 0 }), mapping, own)
            },
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "a page dirtied after a sync of unpaged changes is not late",
        configuration: "truncate, store and fsync",
        breaks: Broken::Unannounced,
        protocol: Protocol {
            dirtied: |word, mapping, own| {
                if phase(word) == ANNOUNCED && word.0 & PAGED == 0 {
                    return Step::Store(Word((word.0 | PAGED) & !SYNCED));
                }
                generation::dirtied(word, mapping, own)
            },
            ..AS_COMPILED
        },
    },
    Mutant {
        rule: "a generation that begins on dirty pages does not note them",
        configuration: "premod's own writes among others'",
        breaks: Broken::Unannounced,
        protocol: Protocol {
            touch: |word, mapping, touch| {
                let before = word.0 & (PAGED | MARKED);
                match generation::touch(word, mapping, touch) {
                    Step::Announce(new, Announcement::First) => {
                        Step::Announce(Word(new.0 & !(PAGED | MARKED)), Announcement::First)
                    }
                    Step::Announce(new, kind) => {
                        Step::Announce(Word(new.0 & !(PAGED | MARKED) | before), kind)
                    }
                    Step::Store(new) if new.0 & !(PAGED | MARKED) == word.0 & !(PAGED | MARKED) => {
                        Step::Nothing
                    }
                    step => step,
                }
            },
            ..AS_COMPILED
        },
    },
];
