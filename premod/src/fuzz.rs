//! What the property tests share: how much they try, and hostile input for them.
//!
//! `cargo test` always tries the same inputs. `PREMOD_FUZZ=N cargo test` tries N times as many, and others
//! each time. What fails is made smaller and printed; it then gets a test of its own beside the code.

use premod_common::event::{DirectoryRecord, FLAG_PATH_CUT, FirstDirtyRecord, Item};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngSeed},
};

use crate::events::{Clocks, Decoder, FirstDirty};

/// The effort of one property.
pub(crate) fn effort(cases: u32) -> Config {
    let factor = std::env::var("PREMOD_FUZZ")
        .ok()
        .map(|factor| factor.parse::<u32>().expect("PREMOD_FUZZ is a number"));
    Config {
        cases: cases.saturating_mul(factor.unwrap_or(1)),
        rng_seed: match factor {
            Some(_) => RngSeed::Random,
            None => RngSeed::Fixed(0x7072_656d_6f64),
        },
        // Regressions are written down as tests.
        failure_persistence: None,
        ..Config::default()
    }
}

/// What terminals obey, what JSON escapes, what UTF-8 forbids, and what looks like an escape already.
const NASTY: &[&[u8]] = &[
    b"\n",
    b"\r",
    b"\t",
    b"\x1b[31m",
    b"\x1b]0;x\x07",
    b"\x7f",
    b"\"",
    b"\\",
    b"\\x0a",
    b"\\u0000",
    b"\\040",
    b"\xff",
    b"\xc3",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x80",
    "\u{9b}31m".as_bytes(),
    "\u{202e}".as_bytes(),
    "\u{200b}".as_bytes(),
    "\u{fe0f}".as_bytes(),
    "\u{e0041}".as_bytes(),
    "\u{2028}".as_bytes(),
    "e\u{301}".as_bytes(),
    "名前".as_bytes(),
    b" ",
    b".",
    b"*",
    b"[",
    b"{",
    b" - ",
];

/// A few bytes that somebody chose with care, or any.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => proptest::sample::select(NASTY).prop_map(<[u8]>::to_vec),
        2 => any::<char>().prop_map(|character| character.to_string().into_bytes()),
        2 => vec(any::<u8>(), 1..8),
        1 => "[a-z]{1,12}".prop_map(String::into_bytes),
    ]
}

/// Any bytes at all, mostly nasty ones.
pub(crate) fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(piece(), 0..most / 4 + 2).prop_map(move |pieces| {
        let mut bytes = pieces.concat();
        bytes.truncate(most);
        bytes
    })
}

/// Any text, mostly nasty.
pub(crate) fn text(most: usize) -> impl Strategy<Value = String> {
    bytes(most).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What the kernel takes for the name of a file: 1 to 255 bytes, neither NUL nor `/`.
pub(crate) fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => bytes(24), 1 => bytes(255)].prop_map(|mut name| {
        name.retain(|byte| !matches!(byte, 0 | b'/'));
        if name.is_empty() {
            name.push(b'\n');
        }
        name
    })
}

/// The names from the root to a file, as many as a record can hold.
pub(crate) fn names() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop_oneof![
        8 => vec(name(), 0..8),
        1 => vec(name(), 0..200),
        1 => vec("[a-z]".prop_map(String::into_bytes), 0..512),
    ]
    .prop_map(|mut names| {
        let mut room = premod_common::event::NAMES_MAX;
        names.retain(|name| {
            let fits = name.len() < room;
            room -= if fits { name.len() + 1 } else { 0 };
            fits
        });
        names
    })
}

/// A number, and more often than by chance one at the edge.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => any::<u64>(),
        1 => 0..2u64,
        1 => u64::MAX - 1..=u64::MAX,
        1 => (1 << 63) - 1..(1 << 63) + 2u64,
    ]
}

fn word() -> impl Strategy<Value = [u8; 16]> {
    bytes(16).prop_map(|bytes| {
        let mut word = [0; 16];
        word[..bytes.len()].copy_from_slice(&bytes);
        word
    })
}

/// Any record, with every combination of flags.
pub(crate) fn record() -> impl Strategy<Value = FirstDirtyRecord> {
    let numbers = proptest::array::uniform8(number());
    let words = proptest::array::uniform6(any::<u32>());
    let flags = (any::<u8>(), any::<u16>());
    (numbers, words, 0..12u8, flags, word(), word()).prop_map(
        |(numbers, words, op, (flags, marks), comm, filesystem)| {
            let [
                mono_ns,
                generation,
                inode_address,
                born,
                inode,
                offset,
                length,
                cgroup,
            ] = numbers;
            let [inode_generation, device, pid, tid, uid, gid] = words;
            FirstDirtyRecord {
                op,
                flags,
                marks,
                mono_ns,
                generation,
                inode_address,
                born,
                inode,
                offset,
                length,
                cgroup,
                inode_generation,
                device,
                pid,
                tid,
                uid,
                gid,
                comm,
                filesystem,
                ..FirstDirtyRecord::default()
            }
        },
    )
}

/// Any record of a directory, with one of a few tokens.
pub(crate) fn directory() -> impl Strategy<Value = DirectoryRecord> {
    (1..6u64, any::<u8>(), any::<u16>(), word()).prop_map(|(token, flags, marks, filesystem)| {
        DirectoryRecord {
            flags,
            marks,
            token,
            filesystem,
            ..DirectoryRecord::default()
        }
    })
}

/// Path components as they follow a record: leaf first.
fn tail(names: &[Vec<u8>]) -> Vec<u8> {
    let mut tail = Vec::new();
    for name in names.iter().rev() {
        tail.extend_from_slice(name);
        tail.push(0);
    }
    tail
}

/// The bytes that the kernel side puts into the buffer for this directory and these names, root first.
pub(crate) fn directory_item(record: &DirectoryRecord, names: &[Vec<u8>]) -> Vec<u8> {
    let tail = tail(names);
    let mut item = Vec::new();
    item.extend(record.kind.to_ne_bytes());
    item.extend(record.marks.to_ne_bytes());
    item.extend((tail.len() as u16).to_ne_bytes());
    item.extend([record.flags, record.padding]);
    item.extend(record.token.to_ne_bytes());
    item.extend(record.filesystem);
    item.extend(tail);
    item
}

/// The bytes that the kernel side puts into the buffer for this record and these names, root first.
pub(crate) fn item(record: &FirstDirtyRecord, names: &[Vec<u8>]) -> Vec<u8> {
    let tail = tail(names);
    let mut item = Vec::new();
    item.extend(record.kind.to_ne_bytes());
    item.extend(record.marks.to_ne_bytes());
    item.extend((tail.len() as u16).to_ne_bytes());
    item.extend([record.op, record.flags]);
    for number in [
        record.mono_ns,
        record.generation,
        record.inode_address,
        record.born,
        record.inode,
        record.offset,
        record.length,
        record.cgroup,
        record.directory,
    ] {
        item.extend(number.to_ne_bytes());
    }
    for number in [
        record.inode_generation,
        record.device,
        record.pid,
        record.tid,
        record.uid,
        record.gid,
    ] {
        item.extend(number.to_ne_bytes());
    }
    item.extend(record.comm);
    item.extend(record.filesystem);
    item.extend(tail);
    item
}

/// The path that these names make.
pub(crate) fn joined(names: &[Vec<u8>], flags: u8) -> Vec<u8> {
    let path = names.iter().fold(Vec::new(), |mut path, name| {
        path.push(b'/');
        path.extend_from_slice(name);
        path
    });
    match path.strip_prefix(b"/") {
        Some(relative) if flags & FLAG_PATH_CUT != 0 => relative.to_vec(),
        _ => path,
    }
}

/// Any event that can come out of the buffer.
pub(crate) fn event() -> impl Strategy<Value = FirstDirty> {
    (record(), names(), number()).prop_map(|(record, names, seq)| {
        let item = item(&record, &names);
        let Some(Item::FirstDirty(record, names)) = Item::decode(&item) else {
            panic!("it is whole");
        };
        let mut event = Decoder::new().first_dirty(&record, names, &Clocks::now());
        event.seq = seq;
        event
    })
}

/// The same bytes with a few bits turned over, cut short or made longer.
pub(crate) fn mutated(original: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = original.len();
    let flips = vec((0..length.max(1), any::<u8>()), 0..6);
    let end = prop_oneof![2 => Just(length), 1 => 0..=length, 1 => length..length + 64];
    (flips, end).prop_map(move |(flips, end)| {
        let mut bytes = original.clone();
        for (place, mask) in flips {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= mask;
            }
        }
        bytes.resize(end, 0xa5);
        bytes
    })
}
