//! Tracked inodes: what the kernel side keeps for each, and how user space names one.

/// Address of the kernel's `struct inode`. It identifies an inode for as long as it is in memory; the
/// entry is deleted when the inode is freed (`security_inode_free`).
///
/// The inode number is no key: btrfs subvolumes and snapshots share device, number and generation.
pub type InodeAddress = u64;

/// Most inodes that are tracked at a time. The kernel takes memory for as many as there are, and 16 MiB for
/// the table.
pub const TRACKED_MAX: u32 = 1 << 20;

/// What the kernel side keeps for one inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TrackedInode {
    /// The [`crate::generation::Word`].
    pub word: u64,
    /// Tells an inode from another one that took its memory: [`identity`].
    pub identity: u64,
    /// Whether the inode is in the traced scope: a [`Verdict`].
    pub verdict: u64,
    /// Address of the mount that the verdict was found through.
    pub mount: u64,
    /// When tracking began (`bpf_ktime_get_ns`). With the address it names this life of the inode.
    pub born: u64,
    /// When the current generation was announced (`bpf_ktime_get_ns`).
    pub announced: u64,
}

/// A number that differs between inodes that use the same memory one after the other.
#[inline(always)]
#[must_use]
pub const fn identity(number: u64, generation: u32) -> u64 {
    number ^ (generation as u64).rotate_left(32)
}

/// Whether an inode is in the traced scope, and when that was found out.
///
/// It holds for the mount that stands beside it in [`TrackedInode`], and for one epoch: when a directory
/// is renamed, or the mounts or the PATHs change, a new epoch begins.
///
/// Whoever wants to keep a verdict makes the word [`Verdict::BUSY`] *before* he looks, writes the mount, and swaps the word
/// for the verdict; nobody else does so in the meantime. What makes a verdict of this one inode void sets
/// [`Verdict::FORGOTTEN`], in any state: then the swap fails. Whoever reads the pair reads the verdict again after the
/// mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Verdict(pub u64);

impl Verdict {
    /// Not found out yet.
    pub const OPEN: Self = Self(0);
    /// Somebody is finding it out.
    pub const BUSY: Self = Self(1 << 2);
    /// Bit of a verdict that is void.
    pub const FORGOTTEN: u64 = 1 << 3;
    const INSIDE: u64 = 1 << 0;
    const KNOWN: u64 = 1 << 1;
    const EPOCH_SHIFT: u32 = 4;

    /// A verdict of this epoch.
    #[inline(always)]
    #[must_use]
    pub const fn new(epoch: u64, inside: bool) -> Self {
        Self(epoch << Self::EPOCH_SHIFT | Self::KNOWN | inside as u64)
    }

    /// Whether it was found out in this epoch, and holds.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, epoch: u64) -> bool {
        self.0 | Self::INSIDE == Self::new(epoch, true).0
    }

    /// What it says.
    #[inline(always)]
    #[must_use]
    pub const fn inside(self) -> bool {
        self.0 & Self::INSIDE != 0
    }

    /// Whether somebody is finding it out.
    #[inline(always)]
    #[must_use]
    pub const fn is_busy(self) -> bool {
        self.0 & Self::BUSY.0 != 0
    }
}

/// What user space asks about an open file ("enrolment"): the kernel's own identity of its inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Enrolled {
    /// Address of the inode; 0 when the hook has not run.
    pub inode: InodeAddress,
    /// Address of the superblock's `backing_dev_info`.
    pub bdi: u64,
    /// `s_magic` of the superblock.
    pub magic: u64,
    /// `xa_flags` of the mapping.
    pub mapping_flags: u32,
    /// The asking process, in the initial pid namespace.
    pub tgid: u32,
    /// Address of the mount namespace that the file was opened in.
    pub namespace: u64,
}

/// What is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Scoped {
    /// Every inode.
    Everything = 0,
    /// What lies below a root in the scope map.
    Below = 1,
    /// What does not lie below an excluded one.
    AllBut = 2,
}

/// A directory or file whose inode stands in the scope map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ScopeRoot {
    /// Exactly this inode.
    File = 1,
    /// The directory's subtree.
    Directory = 2,
    /// The directory's subtree is left out, but for roots below it. What is mounted below it is not: whoever mounts
    /// chooses where.
    Excluded = 3,
    /// The same for a whole filesystem whose root the directory is.
    ExcludedFilesystem = 4,
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers only, no padding (asserted below).
    unsafe impl aya::Pod for super::TrackedInode {}
    // SAFETY: repr(C), integers only, no padding (asserted below).
    unsafe impl aya::Pod for super::Enrolled {}
}

const _: () = assert!(size_of::<TrackedInode>() == 48 && size_of::<Enrolled>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_good_for_its_epoch_only() {
        for inside in [false, true] {
            let verdict = Verdict::new(1, inside);
            assert!(verdict.is_of(1) && !verdict.is_of(0) && !verdict.is_of(2));
            assert_eq!(verdict.inside(), inside);
        }
        for epoch in 0..4 {
            assert!(!Verdict::OPEN.is_of(epoch) && !Verdict::BUSY.is_of(epoch));
            for forgotten in [Verdict::new(epoch, true), Verdict::OPEN, Verdict::BUSY] {
                let forgotten = Verdict(forgotten.0 | Verdict::FORGOTTEN);
                assert!(!forgotten.is_of(epoch) && forgotten != Verdict::BUSY);
            }
        }
        assert!(Verdict::BUSY.is_busy() && !Verdict::OPEN.is_busy());
        assert!(!Verdict::new(u64::MAX, true).is_busy());
    }

    #[test]
    fn identity_tells_generations_apart() {
        assert_ne!(identity(7, 1), identity(7, 2));
        assert_ne!(identity(7, 1), identity(8, 1));
    }
}
