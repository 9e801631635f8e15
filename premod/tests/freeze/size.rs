//! The writer that changes the files' sizes: what follows the regions is its own.

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::{
    board::{Board, Line},
    region::{BLOCK, TAIL, block},
    writer::{judge, proceed},
};

/// Blocks in the tail at most.
const LONGEST: usize = 8;
/// The number in this writer's blocks.
const NUMBER: usize = 8;

/// What has to follow the regions: for each block the count that it was written with, or `None` for zeroes.
type Tail = Vec<Option<u64>>;

/// Appends, truncates and extends, and looks at the tail after each.
pub(crate) fn work(board: &Board, line: &Line, files: Vec<File>) {
    let mut tails: Vec<Tail> = files.iter().map(|_| Vec::new()).collect();
    for count in 1.. {
        if !proceed(board, line) {
            return;
        }
        let turn = count as usize % files.len();
        let (file, tail) = (&files[turn], &mut tails[turn]);
        let mut next = tail.clone();
        let result = change(file, &mut next, count);
        if judge(board, line, result) {
            *tail = next;
        }
        check(file, tail);
    }
}

fn change(file: &File, tail: &mut Tail, count: u64) -> io::Result<()> {
    if tail.len() == LONGEST {
        tail.truncate(1);
    } else if count.is_multiple_of(4) {
        tail.push(None);
    } else {
        let offset = TAIL + (tail.len() * BLOCK) as u64;
        tail.push(Some(count));
        let written = file.write_at(&block(NUMBER, count).0, offset)?;
        assert_eq!(written, BLOCK, "a short write");
        return Ok(());
    }
    file.set_len(TAIL + (tail.len() * BLOCK) as u64)
}

fn check(file: &File, tail: &Tail) {
    let mut bytes = vec![0; (LONGEST + 1) * BLOCK];
    let size = file.metadata().expect("fstat").len();
    let read = file
        .read_at(&mut bytes, TAIL)
        .expect("the tail can be read");
    let length = tail.len() * BLOCK;
    assert_eq!((size, read), (TAIL + length as u64, length), "the size");
    for (number, (bytes, count)) in bytes.chunks(BLOCK).zip(tail).enumerate() {
        let same = match count {
            Some(count) => bytes == block(NUMBER, *count).0,
            None => bytes.iter().all(|byte| *byte == 0),
        };
        assert!(same, "block {number} of the tail is not what was written");
    }
}
