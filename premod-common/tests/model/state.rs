//! The state of the world: the kernel's, premod's, and what the properties remember.

use premod_common::generation::Word;

use crate::{
    configuration::Configuration,
    memory::{Covered, Memory, SeenBits},
    model::Budget,
    program::{Instruction, program},
};

pub(crate) const ACTORS: usize = 3;
pub(crate) const ELEMENTS: usize = 4;
/// Lives of entries (`born`) and generations in each; a configuration that needs more fails.
pub(crate) const BIRTHS: usize = 4;
pub(crate) const GENERATIONS: usize = 12;
/// No actor, no entry.
pub(crate) const NONE: u8 = u8::MAX;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) actors: [Actor; ACTORS],
    pub(crate) kernel: Kernel,
    pub(crate) premod: Premod,
    pub(crate) budget: Budget,
    pub(crate) memory: Memory,
}

/// A task on a CPU of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Actor {
    pub(crate) op: u8,
    pub(crate) pc: u8,
    pub(crate) hook: Hook,
    /// Index of the entry that the hook has found.
    pub(crate) entry: u8,
    pub(crate) attempt: u8,
    /// `own` of touch.rs's `decide`.
    pub(crate) own: bool,
    /// This operation's last hook has looked.
    pub(crate) looked: bool,
    /// The inode became clean since then.
    pub(crate) overtaken: bool,
    /// A sync or an age ended unpaged changes since then.
    pub(crate) synced: bool,
    /// The word has moved on otherwise than this operation's last hook saw it: the hook joined a generation
    /// that was there before, or premod itself cleaned it.
    pub(crate) superseded: bool,
    /// One of this operation's hooks was skipped.
    pub(crate) skipped: bool,
    /// The hook saw the dirty mark.
    pub(crate) saw_dirty: bool,
    /// The hook saw a clean mapping while a page, past the net, was about to be marked.
    pub(crate) misled: bool,
}

/// Where in touch.rs the actor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hook {
    Out,
    /// `find`
    Lookup,
    Remove,
    Insert,
    LookupAgain,
    /// `decide`
    LoadWord,
    LoadMark(Word),
    LoadAnnounced(Word),
    LoadSynced(Word, u8),
    Swap(Swap),
    ReadClock(Decision),
    StoreAnnounced(Decision, u8),
    Emit(Decision),
    /// `conclude`
    LoadVerdict(Decision, bool),
    SwapVerdict(Decision, bool, Word, Word),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Swap {
    pub(crate) old: Word,
    pub(crate) new: Word,
    pub(crate) kind: Option<Kind>,
    pub(crate) aged: bool,
    /// The time, if it was read before the swap.
    pub(crate) now: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Decision {
    pub(crate) generation: u8,
    pub(crate) born: u8,
    pub(crate) kind: Kind,
}

/// What an event says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    First,
    Echo,
    Retry,
    Late,
    Untracked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    /// The inode that has the memory.
    pub(crate) life: u8,
    pub(crate) identity: u8,
    /// Pages with the dirty mark, and with a writable page table entry: one bit each.
    pub(crate) dirty: u8,
    pub(crate) writable: u8,
    /// Who holds the lock.
    pub(crate) page_lock: [u8; 2],
    pub(crate) mapping_lock: u8,
    pub(crate) inode_lock: u8,
    /// A change without pages was announced or made, and is not on disk yet.
    pub(crate) pending: bool,
    /// Actors whose running sync will bring all of it to the disk: one bit each.
    pub(crate) syncing: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Premod {
    /// `INODES` at this address: which element.
    pub(crate) map: u8,
    pub(crate) elements: [Entry; ELEMENTS],
    pub(crate) births: u8,
    /// `SYNCED` of the superblock, and the time before which everything is too old. Times keep their order
    /// only: see [`State::renumber_times`].
    pub(crate) synced: u8,
    pub(crate) cutoff: u8,
    /// Records in the ring buffer.
    pub(crate) ring: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) word: Word,
    pub(crate) identity: u8,
    pub(crate) born: u8,
    pub(crate) announced: u8,
    /// Whose entry it really is.
    pub(crate) life: u8,
}

impl Actor {
    const fn new() -> Self {
        Self {
            op: 0,
            pc: 0,
            hook: Hook::Out,
            entry: NONE,
            attempt: 0,
            own: false,
            looked: false,
            overtaken: false,
            synced: false,
            superseded: false,
            skipped: false,
            saw_dirty: false,
            misled: false,
        }
    }

    /// Between two operations: holds no reference to the inode.
    pub(crate) fn is_idle(&self) -> bool {
        self.pc == 0 && self.hook == Hook::Out
    }

    /// Between the swap of the word and the verdict.
    pub(crate) fn is_announcing(&self) -> bool {
        matches!(
            self.hook,
            Hook::ReadClock(_)
                | Hook::StoreAnnounced(..)
                | Hook::Emit(_)
                | Hook::LoadVerdict(..)
                | Hook::SwapVerdict(..)
        )
    }

    /// The operation is over.
    pub(crate) fn finish(&mut self) {
        *self = Self {
            op: self.op + 1,
            ..Self::new()
        };
    }

    pub(crate) fn leave_hook(&mut self) {
        self.hook = Hook::Out;
        self.entry = NONE;
        self.attempt = 0;
        self.own = false;
        self.saw_dirty = false;
        self.misled = false;
        self.pc += 1;
    }
}

impl State {
    pub(crate) fn new(configuration: &Configuration) -> Self {
        Self {
            actors: [Actor::new(); ACTORS],
            kernel: Kernel {
                life: 0,
                identity: 0,
                dirty: 0,
                writable: 0,
                page_lock: [NONE; 2],
                mapping_lock: NONE,
                inode_lock: NONE,
                pending: false,
                syncing: 0,
            },
            premod: Premod {
                map: NONE,
                elements: [Entry::default(); ELEMENTS],
                births: 0,
                synced: 0,
                cutoff: 0,
                ring: 0,
            },
            budget: configuration.budget,
            memory: Memory {
                broken: None,
                covered: Covered::Nothing,
                modified: false,
                owed: false,
                waits: false,
                stirred: false,
                slipped: false,
                misdated: false,
                stale: false,
                recounted: false,
                excused: false,
                seen: [SeenBits::default(); BIRTHS],
            },
        }
    }

    /// What the actor does now; none when it has done everything.
    pub(crate) fn instruction(
        &self,
        configuration: &Configuration,
        actor: usize,
    ) -> Option<Instruction> {
        let role = configuration.actors.get(actor)?;
        let op = *role.ops.get(usize::from(self.actors[actor].op))?;
        let instructions = program(op);
        Some(*instructions.get(usize::from(self.actors[actor].pc))?)
    }

    pub(crate) fn all_idle(&self) -> bool {
        self.actors.iter().all(Actor::is_idle)
    }

    /// Replaces times by their ranks, so that states which differ in nothing else become one.
    pub(crate) fn renumber_times(&mut self) {
        let mut times = Vec::with_capacity(16);
        self.each_time(|time| times.push(*time));
        times.push(0);
        times.sort_unstable();
        times.dedup();
        self.each_time(|time| {
            *time = times.iter().position(|known| known == time).unwrap_or(0) as u8;
        });
    }

    /// A reading of the clock: later than every other.
    pub(crate) fn now(&mut self) -> u8 {
        let mut latest = 0;
        self.each_time(|time| latest = latest.max(*time));
        latest + 1
    }

    fn each_time(&mut self, mut visit: impl FnMut(&mut u8)) {
        visit(&mut self.premod.synced);
        visit(&mut self.premod.cutoff);
        for entry in &mut self.premod.elements {
            visit(&mut entry.announced);
        }
        for actor in &mut self.actors {
            match &mut actor.hook {
                Hook::LoadSynced(_, time) | Hook::StoreAnnounced(_, time) => visit(time),
                Hook::Swap(swap) => visit(&mut swap.now),
                _ => {}
            }
        }
    }
}
