//! What the kernel side counts, per CPU.

/// One CPU's counters. They only grow. Each CPU has a cache line of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Counters {
    /// Events put into the ring buffer.
    pub delivered: u64,
    /// Generations whose announcement found the ring buffer full (or no scratch space to build it in).
    pub lost: u64,
    /// Lost generations that were announced after all, by a later touch.
    pub retried: u64,
    /// Touches of inodes for which there was no room in the inode map: each was announced, so that
    /// nothing is missed, but more than once per generation.
    pub untracked: u64,
    /// Compare-and-swap loops that gave up; the touch was announced to be safe.
    pub contended: u64,
    /// Events whose trigger was seen only during or after the modification.
    pub late: u64,
    /// Renames of directories and switches of symbolic links, each of which makes void what was known of where files are.
    pub moves: u64,
    /// How often a name was given to something else by which a symbolic link on the way to a PATH is reached. Each is a
    /// move, too, and counted before it.
    pub switches: u64,
}

impl Counters {
    /// Sums two CPUs' counters.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            delivered: self.delivered + other.delivered,
            lost: self.lost + other.lost,
            retried: self.retried + other.retried,
            untracked: self.untracked + other.untracked,
            contended: self.contended + other.contended,
            late: self.late + other.late,
            moves: self.moves + other.moves,
            switches: self.switches + other.switches,
        }
    }
}

#[cfg(feature = "user")]
// SAFETY: repr(C), u64 only, no padding of the compiler's.
unsafe impl aya::Pod for Counters {}

const _: () = assert!(size_of::<Counters>() == 64);
