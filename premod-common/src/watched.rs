//! PATHs as names: what user space tells the kernel side of the components of each PATH, so that whatever has the name
//! now is traced.
//!
//! The scope map ([`crate::inode::ScopeRoot`]) knows what the PATHs named when user space looked last. Whoever walks up
//! from a file and comes to a directory marked with [`NAMES_BELOW`] looks up the name by which he has come: what the
//! PATH's last component leads to is inside, whichever inode it is, from the moment on in which it has the name.

use crate::{event::NAME_SPACE, inode::InodeAddress};

/// In a value of the scope map, beside the kind: names in this directory are watched.
pub const NAMES_BELOW: u32 = 1 << 8;

/// The kind of root that a value of the scope map says, [`crate::inode::ScopeRoot`] as a number; 0 for none.
#[inline(always)]
#[must_use]
pub const fn kind_of(root: u32) -> u32 {
    root & !NAMES_BELOW
}

/// A component of a PATH: the directory that it is in, and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct WatchedName {
    /// The directory.
    pub directory: InodeAddress,
    /// The name, filled up with NUL bytes; the beginning of one that is longer.
    pub name: [u8; NAME_SPACE],
}

impl WatchedName {
    /// The name in this directory, as the kernel side looks it up.
    #[must_use]
    pub fn new(directory: InodeAddress, name: &[u8]) -> Self {
        let mut space = [0; NAME_SPACE];
        let length = name.len().min(NAME_SPACE - 1);
        space[..length].copy_from_slice(&name[..length]);
        Self {
            directory,
            name: space,
        }
    }
}

/// What the name is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Watched {
    /// The inode that had the name when user space looked; 0 if none had.
    pub inode: InodeAddress,
    /// [`Watched::LAST`] and [`Watched::LINKS`].
    pub flags: u64,
}

impl Watched {
    /// It is the last component of a PATH, so that whatever has the name is inside. Otherwise, if another inode has the
    /// name, nobody knows what is below until user space has looked again.
    pub const LAST: u64 = 1 << 0;
    /// It is a symbolic link, or one comes after it. If another directory or link gets the name the PATH may lead
    /// anywhere, until user space has looked again.
    pub const LINKS: u64 = 1 << 1;
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers only, no padding (asserted below).
    unsafe impl aya::Pod for super::WatchedName {}
    // SAFETY: repr(C), integers only, no padding.
    unsafe impl aya::Pod for super::Watched {}
}

const _: () = assert!(size_of::<WatchedName>() == 8 + NAME_SPACE && size_of::<Watched>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::ScopeRoot;

    #[test]
    fn names_end_where_the_kernel_side_stops_to_read() {
        let name = WatchedName::new(7, b"db");
        assert_eq!((name.directory, &name.name[..3]), (7, &b"db\0"[..]));
        let longest = WatchedName::new(7, &[b'x'; 255]);
        assert_eq!(WatchedName::new(7, &[b'x'; 700]), longest);
        assert_eq!(longest.name[255], 0);
    }

    #[test]
    fn the_mark_does_not_change_the_kind() {
        let kind = ScopeRoot::Directory as u32;
        assert_eq!(kind_of(kind | NAMES_BELOW), kind);
        assert_eq!(kind_of(NAMES_BELOW), 0);
    }
}
