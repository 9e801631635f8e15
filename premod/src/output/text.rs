//! Making bytes that anybody chose fit for a terminal.

use std::fmt::Write;

/// Whether a terminal could take the character for a command, reorder text by it, or show nothing at all,
/// so that two names look the same: controls, the two separators, and Unicode's properties `Bidi_Control`
/// and `Default_Ignorable_Code_Point`. Joiners and variation selectors are among the latter; writing has a
/// use for them, but a name that is shown exactly is worth more here.
pub(crate) fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Text with invalid UTF-8, control characters and others that cannot be seen written as `\xNN`, and
/// backslashes doubled.
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
            undecided: false,
            foreign: false,
            mount_point: false,
            several_names: false,
        },
        key: InodeKey {
            device: Device { major: 8, minor: 1 },
            inode: 131,
            generation: 9,
        },
        filesystem: "ext4".into(),
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
        in_cgroup: false,
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
        assert_eq!(printable("a\u{200b}b".as_bytes()), "a\\xe2\\x80\\x8bb");
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
