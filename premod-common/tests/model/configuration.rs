//! Small worlds, each explored to the end.

use crate::{
    model::{Budget, Generations},
    program::Op::{self, *},
    state::{Hook, Kind, State},
};

/// What an actor does, one operation after the other.
pub(crate) struct Role {
    pub(crate) ops: &'static [Op],
    /// The actor is premod itself.
    pub(crate) own: bool,
}

/// Something that has to be reachable, lest the world is too small to say anything.
pub(crate) type Sight = (&'static str, fn(&Generations, &State) -> bool);

pub(crate) struct Configuration {
    pub(crate) name: &'static str,
    pub(crate) actors: &'static [Role],
    pub(crate) budget: Budget,
    /// Records that the ring buffer has room for; none: never full.
    pub(crate) ring: Option<u8>,
    /// The inode map has room for the inode.
    pub(crate) map_has_room: bool,
    /// The program that sees evictions was skipped.
    pub(crate) unseen_evictions: bool,
    pub(crate) sights: &'static [Sight],
}

impl Configuration {
    /// Time matters: otherwise `announced` is neither written nor read.
    pub(crate) fn is_timed(&self) -> bool {
        self.budget.ages > 0 || self.actors.iter().any(|role| role.ops.contains(&Syncfs))
    }
}

const fn does(ops: &'static [Op]) -> Role {
    Role { ops, own: false }
}

const fn premod(ops: &'static [Op]) -> Role {
    Role { ops, own: true }
}

const NEVER: Budget = Budget {
    writebacks: 0,
    ages: 0,
    evictions: 0,
    skips: 0,
    failing_inserts: 0,
};

const PLAIN: Configuration = Configuration {
    name: "",
    actors: &[],
    budget: NEVER,
    ring: None,
    map_has_room: true,
    unseen_evictions: false,
    sights: &[],
};

fn concludes(state: &State, wanted: Kind) -> bool {
    state.actors.iter().any(
        |actor| matches!(actor.hook, Hook::LoadVerdict(decision, true) if decision.kind == wanted),
    )
}

const ECHO: Sight = ("an echo is delivered", |_, s| concludes(s, Kind::Echo));
const RETRY: Sight = ("a retry is delivered", |_, s| concludes(s, Kind::Retry));
const LATE: Sight = ("a late event is delivered", |_, s| concludes(s, Kind::Late));
const UNTRACKED: Sight = ("an untracked event is about to be made", |_, s| {
    s.actors
        .iter()
        .any(|a| matches!(a.hook, Hook::Emit(decision) if decision.kind == Kind::Untracked))
});
const SETTLED: Sight = ("a second generation begins", |_, s| {
    s.premod.elements.iter().any(|e| e.word.generation() == 2)
});
const CONTENDED: Sight = ("a compare-and-swap fails", |_, s| {
    s.actors.iter().any(|a| a.attempt > 0)
});
const LOST: Sight = ("an announcement is lost", |_, s| {
    s.premod.elements.iter().any(|e| e.word.is_lost())
});
const SLIPPED: Sight = (
    "known gap: an unpaged change slips behind a sync",
    |_, s| s.memory.slipped,
);
const MISDATED: Sight = (
    "known gap: an event says before, and was overtaken",
    |_, s| s.memory.misdated,
);
const RECOUNTED: Sight = (
    "known flaw: a generation is counted as lost twice",
    |_, s| s.memory.recounted,
);
const STALE: Sight = (
    "known gap: a look at the mapping is stale when it is acted on",
    |_, s| s.memory.stale,
);
const REBORN: Sight = ("a second entry is made", |_, s| s.premod.births > 1);

pub(crate) const ALL: &[Configuration] = &[
    Configuration {
        name: "two writers and the flusher",
        actors: &[does(&[Write]), does(&[WriteOther])],
        budget: Budget {
            writebacks: 2,
            ..NEVER
        },
        sights: &[ECHO, SETTLED, CONTENDED, UNTRACKED, LATE],
        ..PLAIN
    },
    Configuration {
        name: "writes one after the other, and the flusher",
        actors: &[does(&[Write, Write]), does(&[FailingWrite, Write])],
        budget: Budget {
            writebacks: 2,
            ..NEVER
        },
        sights: &[ECHO, SETTLED, CONTENDED, LATE],
        ..PLAIN
    },
    Configuration {
        name: "a long write, stores and the flusher",
        actors: &[does(&[LongWrite]), does(&[Store, StoreOther])],
        budget: Budget {
            writebacks: 2,
            ..NEVER
        },
        sights: &[ECHO, SETTLED, CONTENDED, LATE, MISDATED],
        ..PLAIN
    },
    Configuration {
        name: "stores, a write and fsync",
        actors: &[does(&[Store]), does(&[Write]), does(&[Fsync])],
        sights: &[ECHO, SETTLED, CONTENDED, LATE],
        ..PLAIN
    },
    Configuration {
        name: "truncate, direct write and fsync",
        actors: &[does(&[Truncate]), does(&[DirectWrite]), does(&[Fsync])],
        sights: &[ECHO, SETTLED, CONTENDED, SLIPPED],
        ..PLAIN
    },
    Configuration {
        name: "truncate, store and fsync",
        actors: &[does(&[Truncate]), does(&[Store]), does(&[Fsync])],
        sights: &[ECHO, SETTLED, CONTENDED, SLIPPED],
        ..PLAIN
    },
    Configuration {
        name: "truncate, write and an fsync that notes last",
        actors: &[does(&[Truncate]), does(&[Write]), does(&[FsyncHookLast])],
        sights: &[ECHO, SETTLED, CONTENDED],
        ..PLAIN
    },
    Configuration {
        name: "direct writes and syncfs",
        actors: &[does(&[DirectWrite]), does(&[DirectWrite]), does(&[Syncfs])],
        sights: &[ECHO, SETTLED, CONTENDED, SLIPPED],
        ..PLAIN
    },
    Configuration {
        name: "truncate, store and age",
        actors: &[does(&[Truncate]), does(&[Store])],
        budget: Budget { ages: 1, ..NEVER },
        sights: &[ECHO, SETTLED, CONTENDED, SLIPPED],
        ..PLAIN
    },
    Configuration {
        name: "a full buffer, writers and the flusher",
        actors: &[does(&[Write]), does(&[WriteOther])],
        budget: Budget {
            writebacks: 2,
            ..NEVER
        },
        ring: Some(1),
        sights: &[ECHO, RETRY, LOST, SETTLED, CONTENDED],
        ..PLAIN
    },
    Configuration {
        name: "a full buffer, a store, a write and the flusher",
        actors: &[does(&[Store]), does(&[Write])],
        budget: Budget {
            writebacks: 1,
            ..NEVER
        },
        ring: Some(1),
        sights: &[ECHO, RETRY, RECOUNTED, LOST, SETTLED, CONTENDED],
        ..PLAIN
    },
    Configuration {
        name: "a full buffer, truncate, write and fsync",
        actors: &[does(&[Truncate]), does(&[Write]), does(&[Fsync])],
        ring: Some(1),
        sights: &[ECHO, RETRY, LOST, SETTLED, CONTENDED],
        ..PLAIN
    },
    Configuration {
        name: "premod's own writes among others'",
        actors: &[premod(&[Write, Truncate]), does(&[Write, Store])],
        budget: Budget {
            writebacks: 2,
            ..NEVER
        },
        sights: &[SETTLED, CONTENDED, LATE, STALE],
        ..PLAIN
    },
    Configuration {
        name: "eviction, and reuse of the memory",
        actors: &[does(&[Truncate, Write]), does(&[Write])],
        budget: Budget {
            writebacks: 1,
            evictions: 2,
            ..NEVER
        },
        sights: &[ECHO, SETTLED, CONTENDED, REBORN],
        ..PLAIN
    },
    Configuration {
        name: "an eviction that nobody saw",
        actors: &[does(&[Write]), does(&[Write])],
        budget: Budget {
            writebacks: 1,
            evictions: 1,
            ..NEVER
        },
        unseen_evictions: true,
        sights: &[ECHO, CONTENDED, REBORN],
        ..PLAIN
    },
    Configuration {
        name: "a full map",
        actors: &[does(&[Write]), does(&[Store, Truncate])],
        budget: Budget {
            writebacks: 2,
            ..NEVER
        },
        map_has_room: false,
        sights: &[UNTRACKED],
        ..PLAIN
    },
    Configuration {
        name: "a map that is full at times",
        actors: &[does(&[Write]), does(&[Store])],
        budget: Budget {
            writebacks: 1,
            failing_inserts: 2,
            ..NEVER
        },
        sights: &[UNTRACKED, ECHO],
        ..PLAIN
    },
    Configuration {
        name: "hooks that the kernel skips",
        actors: &[does(&[Write]), does(&[Store])],
        budget: Budget {
            writebacks: 2,
            skips: 1,
            ..NEVER
        },
        sights: &[ECHO, SETTLED, LATE],
        ..PLAIN
    },
];
