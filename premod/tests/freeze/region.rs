//! What each writer has of the files for itself, and how it knows that nothing was lost.

use std::{fs::File, os::unix::fs::FileExt};

/// Bytes that are written at a time: a page, and a block of all three filesystems.
pub(crate) const BLOCK: usize = 4096;
/// Blocks in a region.
pub(crate) const BLOCKS: usize = 4;
/// Bytes in a region.
pub(crate) const REGION: usize = BLOCK * BLOCKS;
/// Regions at the beginning of a file. What follows is the writer's that changes the size.
pub(crate) const REGIONS: usize = 8;
/// Where that begins.
pub(crate) const TAIL: u64 = (REGION * REGIONS) as u64;

/// Memory for direct I/O, aligned to a page.
#[repr(C, align(4096))]
pub(crate) struct Aligned<const SIZE: usize>(pub(crate) [u8; SIZE]);

/// The words of a block: each says who has written it, and how often that one had written before.
pub(crate) fn words(writer: usize, count: u64) -> impl Iterator<Item = u64> {
    (0..BLOCK as u64 / 8).map(move |word| count << 24 | (writer as u64) << 16 | word)
}

/// The same as bytes.
pub(crate) fn block(writer: usize, count: u64) -> Aligned<BLOCK> {
    let mut block = Aligned([0; BLOCK]);
    for (bytes, word) in block.0.chunks_exact_mut(8).zip(words(writer, count)) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    block
}

/// One writer's region of one file: what it has to contain.
pub(crate) struct Region {
    writer: usize,
    counts: [u64; BLOCKS],
}

impl Region {
    /// A region with a first content, which is written to the file.
    pub(crate) fn lay_out(file: &File, writer: usize) {
        let block = block(writer, 0);
        for number in 0..BLOCKS {
            let offset = Self::begin(writer) + (number * BLOCK) as u64;
            file.write_all_at(&block.0, offset).expect("a block");
        }
    }

    /// The region as it was laid out.
    pub(crate) const fn new(writer: usize) -> Self {
        Self {
            writer,
            counts: [0; BLOCKS],
        }
    }

    /// Where a writer's region begins.
    pub(crate) const fn begin(writer: usize) -> u64 {
        (writer * REGION) as u64
    }

    /// Where a block of it begins.
    pub(crate) const fn offset(&self, number: usize) -> u64 {
        Self::begin(self.writer) + (number * BLOCK) as u64
    }

    /// The block has been written.
    pub(crate) const fn wrote(&mut self, number: usize, count: u64) {
        self.counts[number] = count;
    }

    /// Compares the region with what it has to contain.
    pub(crate) fn check(&self, file: &File) {
        let mut bytes = Box::new(Aligned([0; REGION]));
        file.read_exact_at(&mut bytes.0, Self::begin(self.writer))
            .expect("the region can be read");
        self.compare(&bytes.0);
    }

    pub(crate) fn compare(&self, bytes: &[u8]) {
        for (number, (found, count)) in bytes.chunks(BLOCK).zip(self.counts).enumerate() {
            let found = found.chunks_exact(8).map(|bytes| {
                let bytes: [u8; 8] = bytes.try_into().expect("eight bytes");
                u64::from_le_bytes(bytes)
            });
            for (word, (found, wanted)) in found.zip(words(self.writer, count)).enumerate() {
                assert_eq!(
                    found, wanted,
                    "writer {}, block {number}, word {word}: {found:#x} instead of {wanted:#x}",
                    self.writer
                );
            }
        }
    }
}
