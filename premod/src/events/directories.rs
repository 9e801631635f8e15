//! The directories that the kernel side has told of, by their tokens.

use std::{collections::VecDeque, sync::Arc};

use premod_common::event::DIRECTORIES_REMEMBERED;
use rustc_hash::FxHashMap;

/// A directory as it was when it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    /// Its path, empty for the root. One whose beginning is missing does not begin with `/`.
    pub(crate) path: Box<[u8]>,
    /// The `FLAG_…` bits that it shares with the files in it.
    pub(crate) flags: u8,
    /// The `MARK_…` bits of a directory.
    pub(crate) marks: u16,
    /// Type of its filesystem.
    pub(crate) filesystem: Arc<str>,
}

/// Remembers the last [`DIRECTORIES_REMEMBERED`]. As a path has at most
/// [`NAMES_MAX`](premod_common::event::NAMES_MAX) bytes, memory is bounded too.
#[derive(Default)]
pub(crate) struct Directories {
    known: FxHashMap<u64, Directory>,
    /// Their tokens, in the order in which they were told.
    order: VecDeque<u64>,
}

impl Directories {
    /// Takes note of a directory. Told again, it replaces what was told before.
    pub(crate) fn insert(&mut self, token: u64, directory: Directory) {
        if self.known.insert(token, directory).is_some() {
            return;
        }
        if self.order.len() == DIRECTORIES_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(token);
    }

    /// The directory with this token, if it is remembered.
    pub(crate) fn get(&self, token: u64) -> Option<&Directory> {
        self.known.get(&token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(path: &str) -> Directory {
        Directory {
            path: path.as_bytes().into(),
            flags: 0,
            marks: 0,
            filesystem: "ext4".into(),
        }
    }

    #[test]
    fn the_last_ones_are_remembered_and_no_more() {
        let mut directories = Directories::default();
        let last = 3 * DIRECTORIES_REMEMBERED as u64;
        for token in 1..=last {
            directories.insert(token, directory(&format!("/{token}")));
        }
        assert_eq!(directories.known.len(), DIRECTORIES_REMEMBERED);
        assert_eq!(directories.order.len(), DIRECTORIES_REMEMBERED);
        let oldest = last - DIRECTORIES_REMEMBERED as u64 + 1;
        assert_eq!(
            directories.get(oldest),
            Some(&directory(&format!("/{oldest}")))
        );
        assert_eq!(directories.get(last), Some(&directory(&format!("/{last}"))));
        assert_eq!(directories.get(oldest - 1), None);
    }

    #[test]
    fn a_token_that_is_told_again_counts_once() {
        let mut directories = Directories::default();
        for _ in 0..2 * DIRECTORIES_REMEMBERED {
            directories.insert(7, directory("/old"));
        }
        directories.insert(7, directory("/new"));
        assert_eq!(directories.get(7), Some(&directory("/new")));
        assert_eq!(directories.order.len(), 1);
    }
}
