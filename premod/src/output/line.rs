//! A line of JSON in the making, for the one kind of line that there are many of.
//!
//! serde looks at every character of every key, each time, to see whether it needs an escape: that was two
//! thirds of what an event costs. Here keys are literals that are copied, and text without anything special, which
//! is nearly all, is looked at once, many bytes at a time. All other text is serde's.

use std::io;

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::{json, text::is_dangerous};

/// Dates with all nine digits.
pub(super) const DATES: DateTimePrinter = DateTimePrinter::new().precision(Some(9));

/// The comma, the name of a field, and the colon.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(super) use key;

/// A line to which fields are added, each with its [`key!`].
pub(super) struct Line<'a>(&'a mut Vec<u8>);

impl<'a> Line<'a> {
    /// Begins a line of this type.
    pub(super) fn begin(buffer: &'a mut Vec<u8>, r#type: &str) -> Self {
        let mut line = Self(buffer);
        line.number("{\"schema\":", json::SCHEMA.into());
        line.word(key!("type"), r#type);
        line
    }

    #[inline(always)]
    pub(super) fn push(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    #[inline(always)]
    pub(super) fn number(&mut self, key: &'static str, number: u64) {
        self.push(key);
        self.push(itoa::Buffer::new().format(number));
    }

    #[inline(always)]
    pub(super) fn truth(&mut self, key: &'static str, value: bool) {
        self.push(key);
        self.push(if value { "true" } else { "false" });
    }

    /// A field that is there only when true.
    #[inline(always)]
    pub(super) fn only_if(&mut self, key: &'static str, value: bool) {
        if value {
            self.truth(key, true);
        }
    }

    /// A word of our own, without anything to escape.
    #[inline(always)]
    pub(super) fn word(&mut self, key: &'static str, word: &str) {
        self.push(key);
        self.push("\"");
        self.push(word);
        self.push("\"");
    }

    #[inline(always)]
    pub(super) fn text(&mut self, key: &'static str, text: &str) {
        self.push(key);
        self.quoted(text);
    }

    /// A date with all nine digits.
    #[inline(always)]
    pub(super) fn date(&mut self, key: &'static str, timestamp: Timestamp) {
        self.push(key);
        self.push("\"");
        // A vector takes everything.
        let _ = DATES.print_timestamp(&timestamp, &mut *self.0);
        self.push("\"");
    }

    /// Bytes as text, and exactly in a second field if the text is not exact.
    #[inline(always)]
    pub(super) fn bytes(&mut self, key: &'static str, exact: &'static str, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(key, text),
            Err(_) => {
                self.text(key, &String::from_utf8_lossy(bytes));
                self.text(exact, &json::base64(bytes));
            }
        }
    }

    fn quoted(&mut self, text: &str) {
        if is_plain(text.as_bytes()) {
            self.push("\"");
            self.push(text);
            self.push("\"");
        } else {
            write_harmless(self.0, text);
        }
    }
}

/// Whether there is nothing to escape. No early end, so that the compiler looks at many bytes at a time.
fn is_plain(bytes: &[u8]) -> bool {
    let special = |byte: &u8| !matches!(byte, b' '..=b'~') | matches!(byte, b'"' | b'\\');
    !bytes
        .iter()
        .fold(false, |found, byte| found | special(byte))
}

/// Adds a value as JSON that can be shown on a terminal.
pub(super) fn write_harmless(buffer: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Neither the buffer nor these types can fail.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut *buffer,
        Harmless,
    ));
}

/// Escapes what JSON allows, but a terminal would obey or not show.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((position, character)) = rest
            .char_indices()
            .find(|&(_, character)| is_dangerous(character))
        {
            CompactFormatter.write_string_fragment(writer, &rest[..position])?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[position + character.len_utf8()..];
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}
