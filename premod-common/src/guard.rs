//! Guards: what a freeze's kernel side and user side agree on.
//!
//! One freeze has one set of guarded inodes, one [`Switch`] that says what the hooks do with them, and one
//! deadline. All freezes of a machine share the programs; each has maps of its own. User space writes the switch;
//! the kernel side counts in a [`Tally`], keeps the modifiers in flight and the processes it stopped, and tells
//! what happens in [`GuardRecord`]s.
//!
//! ```text
//!            all programs hang      writers are kept out        CMD runs            everybody passes
//!   Open ------------------> Watching ------------> Closed ------------------> Open
//!                            in flight: counted      drain, flush, verify, frozen
//! ```

use crate::inode::InodeAddress;

/// What the hooks do with a guarded inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    /// Everybody passes and nothing is noted: before the freeze, and after the thaw.
    Open = 0,
    /// Everybody passes; modifiers in flight are noted.
    Watching = 1,
    /// Modifiers are denied or held.
    Closed = 2,
}

/// Written by user space; by the kernel side only to open it, when its premod has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Switch {
    /// [`Phase`] as a number.
    pub phase: u64,
    /// When the hooks let everybody pass by themselves: nanoseconds of `CLOCK_MONOTONIC`.
    pub deadline: u64,
}

impl Switch {
    /// What the hooks do at the time `now` (nanoseconds of `CLOCK_MONOTONIC`): a guard whose deadline has
    /// passed holds nobody, whatever became of premod.
    #[inline(always)]
    #[must_use]
    pub const fn phase_at(self, now: u64) -> Phase {
        if now >= self.deadline {
            return Phase::Open;
        }
        match self.phase {
            1 => Phase::Watching,
            2 => Phase::Closed,
            _ => Phase::Open,
        }
    }
}

/// What happens to whoever wants to modify a frozen file by a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// It fails with an errno.
    Deny = 0,
    /// It waits until the thaw and then succeeds.
    Hold = 1,
}

/// What happens to whoever stores to a frozen file through a mapping. There is no errno for a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MmapPolicy {
    /// The process is stopped before the store, until the thaw.
    Hold = 0,
    /// The process is killed before the store.
    Kill = 1,
    /// The store happens, and the freeze is violated.
    Report = 2,
    /// Whoever has a file mapped, shared and writable, is stopped beforehand, until the thaw. Then nothing that the kernel
    /// stores on their behalf can slip through, and no store of theirs begins, which would change the file's times.
    Stop = 3,
}

/// premod's own question about an inode: the lower bits of what it asks by, whose upper bits are a random number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The place of the freeze that asks.
    pub place: u32,
    /// Whether the asking thread is to be interrupted, to learn what that changes.
    pub interrupts: bool,
}

impl Question {
    /// The bits of a question.
    pub const MASK: u64 = 0xffff;

    /// The question in the lower bits of a number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self {
            place: ((number & Self::MASK) >> 1) as u32,
            interrupts: number & 1 != 0,
        }
    }

    /// The question as a number.
    #[must_use]
    pub const fn number(self) -> u64 {
        (self.place as u64) << 1 | self.interrupts as u64
    }
}

/// What the kernel side counts. The numbers only grow, but for `busy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tally {
    /// Hooks that are at this moment dealing with a guarded inode. When it is 0 after the switch was
    /// written, everybody obeys the new switch.
    pub busy: u64,
    /// Modifications of guarded inodes that went on, or are going on, while the switch was closed. Before
    /// the files are frozen they cost another flush; afterwards each is a violation.
    pub touches: u64,
    /// System calls that were refused with an errno.
    pub refused: u64,
    /// Times that a process was stopped.
    pub held: u64,
    /// Processes killed before their store.
    pub killed: u64,
    /// Records that found the ring buffer full.
    pub lost: u64,
    /// A modifier or a process could not be noted, because the map was full: nothing can be promised.
    pub unnoted: u64,
    /// A process could not be stopped.
    pub unstopped: u64,
    /// Names on the way to a guarded file that were about to be renamed, replaced or removed, whatever the switch
    /// says.
    pub renamed: u64,
}

/// A process that was stopped, by its process id in the initial pid namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HeldProcess {
    /// When the process began, in nanoseconds since boot: tells it from another one with its number.
    pub started: u64,
    /// Since when it is held, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since: u64,
    /// The inode it wanted to modify; 0 if it was stopped beforehand.
    pub inode: InodeAddress,
    /// Since when a page can be stored to, by the fault that the process was stopped in, in nanoseconds of
    /// `CLOCK_MONOTONIC`; `u64::MAX` while it is in the fault, 0 if there was none.
    pub writable: u64,
    /// The thread that wanted to.
    pub tid: u32,
    /// [`crate::event::Op`] as a number.
    pub op: u8,
    /// The signal by which somebody else has stopped it too; 0 if nobody has. After SIGSTOP premod does not continue
    /// it. A stop of the terminal's, which it may ignore or handle, is sent to it again when it is continued.
    pub stopped_by_others: u8,
    /// How often it was kept waiting in its system call, until it was seized.
    pub rounds: u16,
    /// Name of the task, ended by a NUL byte if shorter.
    pub comm: [u8; 16],
}

/// A process that has to be seized: it waits in a system call, and tries it again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Waiting {
    /// When the process began, in nanoseconds since boot.
    pub started: u64,
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// The thread that waits, if other processes may have its descriptors or its memory; else 0.
    pub sharer: u32,
}

/// What the kernel side has to know of a freeze's premod, and how that wants to freeze. Written by user space only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Own {
    /// Address of premod's `signal_struct`, by which it is known whether it is ending; 0 if not known.
    pub signal: u64,
    /// `TIF_SIGPENDING` as a bit of `thread_info.flags`; 0 if it could not be found out, so that nobody can be interrupted.
    pub interrupt: u64,
    /// Address of the mount namespace in which the files were opened.
    pub namespace: u64,
    /// When premod began, in clock ticks since boot, as /proc tells it.
    pub began: u64,
    /// [`Mode`] as a number.
    pub mode: u32,
    /// [`MmapPolicy`] as a number.
    pub mmap: u32,
    /// The errno of [`Mode::Deny`], positive.
    pub errno: u32,
    /// premod's process id in the initial pid namespace.
    pub pid: u32,
    /// Process id of the keeper in the initial pid namespace, which seizes; 0 if there is none.
    pub keeper: u32,
    /// Always zero.
    pub padding: u32,
}

/// Where a modifier in flight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Flight {
    /// A user thread in a system call: it has landed when the call ends.
    Call = 0,
    /// In a fault, before the page is writable.
    Fault = 1,
    /// A thread of the kernel (nfsd, an `io_uring` worker): nobody sees when it is done.
    Kernel = 2,
}

/// A modifier that has passed its check and may not have modified yet, by thread id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InFlight {
    /// The inode.
    pub inode: InodeAddress,
    /// Since when, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since: u64,
    /// [`Flight`] as a number.
    pub flight: u32,
    /// Its process.
    pub pid: u32,
}

/// What premod asks about an open file: how its inode looks now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Look {
    /// Address of the inode; 0 when the hook has not run.
    pub inode: InodeAddress,
    /// Address of the superblock.
    pub superblock: u64,
    /// `xa_flags` of the mapping, with the dirty mark and the writeback mark.
    pub mapping_flags: u32,
    /// Direct I/O in flight (`i_dio_count`).
    pub direct: i32,
    /// Open for writing so many times (`i_writecount`).
    pub writers: i32,
    /// Shared mappings that may be written (`i_mmap_writable`).
    pub mappings: i32,
    /// How far the filesystem is frozen by `FIFREEZE` (`s_writers.frozen`); 0 is not at all.
    pub frozen: u32,
    /// The asking process, in the initial pid namespace.
    pub tgid: u32,
    /// Address of the dentry that the file was opened by.
    pub dentry: u64,
    /// Address of the mount namespace that it was opened in.
    pub namespace: u64,
    /// Address of the asking process's `signal_struct`.
    pub signal: u64,
    /// The bits of `thread_info.flags` that were changed by an interruption of the asking thread; 0 if there was none.
    pub interrupt: u64,
}

/// Somebody who uses a guarded inode, as the kernel side finds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Use {
    /// The inode.
    pub inode: InodeAddress,
    /// Address of the process's memory: processes may share it without being threads of one.
    pub memory: u64,
    /// When the process began, in nanoseconds since boot.
    pub started: u64,
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// How many threads it has.
    pub threads: u32,
    /// [`UseKind`] as a number.
    pub kind: u32,
    /// Always zero.
    pub padding: u32,
}

/// How somebody uses an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum UseKind {
    /// Has it open for writing.
    Open = 0,
    /// Has it mapped, shared and writable.
    Mapped = 1,
    /// Has a file of overlayfs open for writing, and the kernel does not tell which file is behind it.
    Stacked = 2,
}

impl Use {
    /// Size in bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// Reads what the kernel side has written; `None` if it is cut off.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::SIZE)?;
        // SAFETY: the bytes have the size of the record, every bit pattern is a valid record, and
        // read_unaligned asks nothing of the address.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

/// What a [`GuardRecord`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Happening {
    /// A system call was refused with an errno.
    Refused = 0,
    /// A process was stopped.
    Held = 1,
    /// A process was killed before its store.
    Killed = 2,
    /// Somebody modified a guarded inode: no hook kept it from doing so.
    Touched = 3,
    /// A store that could not be stopped before it happened: by the kernel on behalf of a process, or into
    /// memory that other processes or threads share.
    Stored = 4,
    /// A name on the way to a guarded file is about to be renamed, replaced or removed.
    Renamed = 5,
}

impl Happening {
    /// The happening with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Refused),
            1 => Some(Self::Held),
            2 => Some(Self::Killed),
            3 => Some(Self::Touched),
            4 => Some(Self::Stored),
            5 => Some(Self::Renamed),
            _ => None,
        }
    }

    /// Whether it means that the bytes of a file have changed, or may have.
    #[must_use]
    pub const fn is_modification(self) -> bool {
        matches!(self, Self::Touched | Self::Stored)
    }
}

/// Something that happened to a guarded inode while the switch was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GuardRecord {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub mono_ns: u64,
    /// The inode; of [`Happening::Renamed`] the dentry.
    pub inode: InodeAddress,
    /// [`Happening`] as a number.
    pub happening: u32,
    /// [`crate::event::Op`] as a number.
    pub op: u32,
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// The errno of a refusal, positive; else 0.
    pub errno: u32,
    /// Real user id.
    pub uid: u32,
    /// Name of the task, ended by a NUL byte if shorter.
    pub comm: [u8; 16],
}

impl Waiting {
    /// Size in bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// Reads a ring buffer item; `None` if it is too short.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::SIZE)?;
        // SAFETY: the bytes have the size of the record, every bit pattern is a valid record, and
        // read_unaligned asks nothing of the address.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

impl GuardRecord {
    /// Size in bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// Reads a ring buffer item; `None` if it is too short.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::SIZE)?;
        // SAFETY: the bytes have the size of the record, every bit pattern is a valid record, and
        // read_unaligned asks nothing of the address.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

/// Most freezes at a time on one machine.
pub const FREEZES_MAX: u32 = 4096;
/// Most inodes in one freeze.
pub const GUARDED_MAX: u32 = 4096;
/// Most inodes in all freezes.
pub const GUARDED_BY_ALL_MAX: u32 = 1 << 18;
/// Most processes that one freeze can stop. Whoever comes after them gets an errno.
pub const HELD_MAX: u32 = 16384;
/// Most names on the ways to the files of one freeze.
pub const NAMES_MAX: u32 = 1 << 18;
/// Most tasks of CMD and what it has started. Those beyond are held like anybody else.
pub const COMMANDS_MAX: u32 = 1 << 16;
/// Most memories of several processes that can be noted.
pub const SHARED_MAX: u32 = 1 << 16;
/// Most modifiers in flight that can be noted.
pub const IN_FLIGHT_MAX: u32 = 16384;

const _: () = assert!(
    size_of::<HeldProcess>() == 56
        && size_of::<GuardRecord>() == 56
        && size_of::<Look>() == 72
        && size_of::<Waiting>() == 16
        && size_of::<Own>() == 56
        && (FREEZES_MAX as u64 * 2) <= Question::MASK + 1
        && size_of::<Use>() == 40
);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers only, no padding.
    unsafe impl aya::Pod for super::Switch {}
    // SAFETY: repr(C), integers only, no padding.
    unsafe impl aya::Pod for super::Tally {}
    // SAFETY: repr(C), integers only, no padding (asserted above).
    unsafe impl aya::Pod for super::HeldProcess {}
    // SAFETY: repr(C), integers only, no padding.
    unsafe impl aya::Pod for super::InFlight {}
    // SAFETY: repr(C), integers only, no padding (asserted above).
    unsafe impl aya::Pod for super::Look {}
    // SAFETY: repr(C), integers only, no padding (asserted above).
    unsafe impl aya::Pod for super::Own {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_its_deadline_a_guard_holds_nobody() {
        let closed = Switch {
            phase: Phase::Closed as u64,
            deadline: 100,
        };
        assert_eq!(closed.phase_at(99), Phase::Closed);
        assert_eq!(closed.phase_at(100), Phase::Open);
        assert_eq!(Switch::default().phase_at(0), Phase::Open);
    }

    #[test]
    fn happenings_have_the_numbers_they_are_found_by() {
        for number in 0..6 {
            assert_eq!(
                Happening::from_number(number).map(|happening| happening as u32),
                Some(number)
            );
        }
        assert_eq!(Happening::from_number(6), None);
        assert!(GuardRecord::decode(&[0; GuardRecord::SIZE - 1]).is_none());
    }
}
