//! Making bytes that anybody chose fit for a terminal.

use std::fmt::Write;

/// Whether a terminal could take the character for a command, or reorder text by it.
pub(super) fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text with control characters and invalid UTF-8 written as `\xNN`, and backslashes doubled.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' {
                text.push_str("\\\\");
            } else if is_dangerous(character) {
                let mut utf8 = [0; 4];
                hex(&mut text, character.encode_utf8(&mut utf8).as_bytes());
            } else {
                text.push(character);
            }
        }
        hex(&mut text, chunk.invalid());
    }
    text
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
pub(super) fn sample() -> crate::events::FirstDirty {
    use crate::events::{Device, FirstDirty, InodeKey, MonotonicNs, Op, Path, Pid, Range, Tid};
    FirstDirty {
        seq: 7,
        timestamp: "2026-11-22T16:31:00.123456789Z".parse().unwrap(),
        mono: MonotonicNs(123),
        op: Op::Mmap,
        pre: true,
        retried: false,
        untracked: false,
        generation: 3,
        path: Path {
            bytes: bytes::Bytes::from_static(b"/data/db/heap"),
            deleted: false,
            cut: false,
            in_filesystem: false,
        },
        key: InodeKey {
            device: Device { major: 8, minor: 1 },
            inode: 131,
            generation: 9,
        },
        filesystem: "ext4".to_owned(),
        range: Some(Range {
            offset: 4096,
            length: Some(4096),
        }),
        comm: bytes::Bytes::from_static(b"postgres"),
        pid: Pid(100),
        tid: Tid(101),
        uid: 70,
        gid: 71,
        cgroup: 4242,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_dangerous_gets_through() {
        assert_eq!(printable(b"plain \xc3\xa9"), "plain é");
        assert_eq!(printable(b"a\nb\x1b[31m\x7f"), "a\\x0ab\\x1b[31m\\x7f");
        assert_eq!(printable(b"bad \xff\xfe"), "bad \\xff\\xfe");
        assert_eq!(printable(b"c1 \xc2\x9b"), "c1 \\xc2\\x9b");
        assert_eq!(
            printable("bidi \u{202e}".as_bytes()),
            "bidi \\xe2\\x80\\xae"
        );
        assert_eq!(
            printable(b"a\\x0a"),
            "a\\\\x0a",
            "no name can look like an escape"
        );
    }

    #[test]
    fn every_byte_sequence_becomes_printable() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                let text = printable(&[first, second, b'x']);
                assert!(!text.chars().any(is_dangerous), "{first} {second}");
            }
        }
    }
}
