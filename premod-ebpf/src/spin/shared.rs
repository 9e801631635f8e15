//! What the spinner and the tests that load it agree on. Both include this file.

/// A place between two steps of the kernel at which a thread can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Gap {
    /// After `security_file_permission`, before the inode lock.
    Permitted = 1,
    /// After `generic_write_checks`, under the inode lock, before the copy.
    Checked = 2,
    /// After a page's copy, before the page is marked dirty.
    Copied = 3,
    /// Between two pages of a write.
    Between = 4,
    /// In a fault, after `do_page_mkwrite` has begun, before the page is marked dirty.
    Faulting = 5,
    /// Behind premod's net, before the mapping gets its dirty mark. Interrupts are off here.
    Marking = 6,
    /// An fsync is about to write the pages.
    Flushing = 7,
    /// An fsync has written the pages, and has not returned.
    Flushed = 8,
    /// premod has decided to announce, and is building the record.
    Announcing = 9,
    /// An inode is forgotten, and its memory has not been given back.
    Forgotten = 10,
    /// A program notes the thread in a hash map.
    Noting = 11,
    /// A rename is about to move what it renames.
    Moving = 12,
    /// A rename has moved it, and has not returned.
    Moved = 13,
    /// A link has given the file its new name, and has not returned.
    Linked = 14,
    /// An unlink has taken one from the number of links, and the name is still in memory.
    Unlinking = 15,
}

/// Whom to hold, and where. Written by user space.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Order {
    /// Thread id of the victim; 0 for nobody.
    pub(crate) victim: u32,
    /// The [`Gap`] as a number.
    pub(crate) gap: u32,
    /// How often it passes by before it is held.
    pub(crate) passes: u64,
    /// After how many nanoseconds the victim goes on by itself.
    pub(crate) limit: u64,
    /// Non-zero: the victim goes on.
    pub(crate) released: u64,
}

/// What became of an [`Order`]. Times are those of `CLOCK_MONOTONIC`, 0 for not yet. Written by the kernel
/// side.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Report {
    /// How often the victim came by.
    pub(crate) passed: u64,
    /// When the victim entered the gap.
    pub(crate) entered: u64,
    /// When it went on.
    pub(crate) left: u64,
    /// When it had copied its first page, before the page was marked dirty, after it went on.
    pub(crate) copied: u64,
    /// When its fault had made a page dirty, right before the store, after it went on.
    pub(crate) faulted: u64,
}
