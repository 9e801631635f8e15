//! A line of JSON in the making, for the one kind of line that there are many of.
//!
//! serde looks at every character of every key, each time, to see whether it needs an escape: that was two
//! thirds of what an event costs. Here keys are literals that are copied, and text without anything special, which
//! is nearly all, is looked at once, many bytes at a time. All other text is serde's. What is mostly the same
//! as in the line before is kept as text.

use std::io;

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::{
    json::{self, schema},
    text::is_dangerous,
};

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
    #[inline(always)]
    pub(super) fn begin(buffer: &'a mut Vec<u8>, r#type: &'static str) -> Self {
        let mut line = Self(buffer);
        line.push(concat!("{\"schema\":", schema!(), ",\"type\":\""));
        line.push(r#type);
        line.push("\"");
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
        if is_plain(text.as_bytes()) {
            self.quoted(text.as_bytes());
        } else {
            write_harmless(self.0, text);
        }
    }

    /// A date with all nine digits.
    pub(super) fn date(&mut self, key: &'static str, timestamp: Timestamp) {
        self.word(key, &DATES.timestamp_to_string(&timestamp));
    }

    /// Bytes as text, and exactly in a second field if the text is not exact.
    #[inline(always)]
    pub(super) fn bytes(&mut self, key: &'static str, exact: &'static str, bytes: &[u8]) {
        self.push(key);
        if is_plain(bytes) {
            self.quoted(bytes);
            return;
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => write_harmless(self.0, text),
            Err(_) => {
                write_harmless(self.0, &*String::from_utf8_lossy(bytes));
                self.text(exact, &json::base64(bytes));
            }
        }
    }

    #[inline(always)]
    fn quoted(&mut self, plain: &[u8]) {
        self.push("\"");
        self.0.extend_from_slice(plain);
        self.push("\"");
    }
}

/// Whether there is nothing to escape: printable ASCII without quotes and backslashes.
fn is_plain(bytes: &[u8]) -> bool {
    // No early end, so that the compiler looks at a whole block at a time.
    fn all(bytes: &[u8]) -> bool {
        let special = |byte: &u8| !matches!(byte, b' '..=b'~') | matches!(byte, b'"' | b'\\');
        !bytes
            .iter()
            .fold(false, |found, byte| found | special(byte))
    }
    const BLOCK: usize = 16;
    // What is left behind the blocks is looked at as part of a last one, which may overlap.
    match bytes.last_chunk::<BLOCK>() {
        Some(last) => all(last) && bytes.as_chunks::<BLOCK>().0.iter().all(|block| all(block)),
        None => all(bytes),
    }
}

/// Some fields of a line, kept for the next one.
pub(super) struct Kept<K> {
    /// What they were made from.
    of: Option<K>,
    text: Vec<u8>,
}

impl<K> Default for Kept<K> {
    fn default() -> Self {
        Self {
            of: None,
            text: Vec::new(),
        }
    }
}

impl<K> Kept<K> {
    /// Adds the fields to the line; they are made only if they are not those of `is_same`.
    #[inline(always)]
    pub(super) fn add(
        &mut self,
        line: &mut Line<'_>,
        is_same: impl FnOnce(&K) -> bool,
        make: impl FnOnce(&mut Line<'_>) -> K,
    ) {
        if !self.of.as_ref().is_some_and(is_same) {
            self.text.clear();
            self.of = Some(make(&mut Line(&mut self.text)));
        }
        line.0.extend_from_slice(&self.text);
    }
}

/// Writes dates. From one event to the next mostly the nanoseconds change only.
#[derive(Default)]
pub(super) struct Dates(Kept<i64>);

impl Dates {
    /// Adds a date with all nine digits.
    #[inline(always)]
    pub(super) fn add(&mut self, line: &mut Line<'_>, key: &'static str, timestamp: Timestamp) {
        let second = timestamp.as_second();
        // Before 1970 the fraction counts backwards.
        let Some(nanosecond) = u64::try_from(timestamp.subsec_nanosecond())
            .ok()
            .filter(|_| second >= 0)
        else {
            return line.date(key, timestamp);
        };
        line.push(key);
        self.0.add(
            line,
            |&of| of == second,
            |line| {
                let whole = Timestamp::from_second(second).unwrap_or(timestamp);
                line.push("\"");
                line.push(
                    DATES
                        .timestamp_to_string(&whole)
                        .trim_end_matches("000000000Z"),
                );
                second
            },
        );
        // A digit too many keeps the zeroes in front of the others.
        let digits = 1_000_000_000 + nanosecond;
        line.push(&itoa::Buffer::new().format(digits)[1..]);
        line.push("Z\"");
    }
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
