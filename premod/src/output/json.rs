//! The JSON form: one object per line. Field names are a contract; see docs/json.md.

use std::io;

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::text::is_dangerous;
use crate::{
    Summary,
    events::{Device, FirstDirty, Lost, LostReason, Record},
};

/// Version of the field names. It changes only if a field is renamed, removed or means something else.
pub(crate) const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct FirstDirtyLine<'a> {
    schema: u32,
    r#type: &'static str,
    timestamp: String,
    mono_ns: u64,
    seq: u64,
    op: &'static str,
    pre: bool,
    #[serde(skip_serializing_if = "is_false")]
    retried: bool,
    #[serde(skip_serializing_if = "is_false")]
    untracked: bool,
    generation: u64,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_raw: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    deleted: bool,
    #[serde(skip_serializing_if = "is_false")]
    path_cut: bool,
    #[serde(skip_serializing_if = "is_false")]
    path_in_fs: bool,
    inode: u64,
    igen: u32,
    device: Device,
    fs: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<RangeField>,
    comm: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_raw: Option<String>,
    pid: u32,
    tid: u32,
    uid: u32,
    gid: u32,
    cgroup: u64,
}

#[derive(Serialize)]
struct RangeField {
    offset: u64,
    length: Option<u64>,
}

#[derive(Serialize)]
struct LostLine {
    schema: u32,
    r#type: &'static str,
    timestamp: String,
    mono_ns: u64,
    seq: u64,
    count: u64,
    cpu: Option<u32>,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<&'static str>,
}

#[derive(Serialize)]
struct SummaryLine {
    schema: u32,
    r#type: &'static str,
    events: u64,
    lost: u64,
    retried: u64,
    late: u64,
    untracked: u64,
}

pub(super) fn record(buffer: &mut Vec<u8>, record: &Record) {
    match record {
        Record::FirstDirty(event) => first_dirty(buffer, event),
        Record::Lost(event) => lost(buffer, event),
    }
}

/// Adds the line that ends the stream.
pub(super) fn summary(buffer: &mut Vec<u8>, summary: &Summary) {
    let Summary {
        events,
        lost,
        retried,
        late,
        untracked,
    } = *summary;
    let line = SummaryLine {
        schema: SCHEMA,
        r#type: "summary",
        events,
        lost,
        retried,
        late,
        untracked,
    };
    write_line(buffer, &line);
}

fn first_dirty(buffer: &mut Vec<u8>, event: &FirstDirty) {
    let path = String::from_utf8_lossy(&event.path.bytes);
    let comm = String::from_utf8_lossy(&event.comm);
    write_line(
        buffer,
        &FirstDirtyLine {
            schema: SCHEMA,
            r#type: "first_dirty",
            timestamp: timestamp(event.timestamp),
            mono_ns: event.mono.0,
            seq: event.seq,
            op: event.op.name(),
            pre: event.pre,
            retried: event.retried,
            untracked: event.untracked,
            generation: event.generation,
            path: &path,
            path_raw: raw(&event.path.bytes),
            deleted: event.path.deleted,
            path_cut: event.path.cut,
            path_in_fs: event.path.in_filesystem,
            inode: event.key.inode,
            igen: event.key.generation,
            device: event.key.device,
            fs: &event.filesystem,
            range: event.range.map(|range| RangeField {
                offset: range.offset,
                length: range.length,
            }),
            comm: &comm,
            comm_raw: raw(&event.comm),
            pid: event.pid.0,
            tid: event.tid.0,
            uid: event.uid,
            gid: event.gid,
            cgroup: event.cgroup,
        },
    );
}

fn lost(buffer: &mut Vec<u8>, event: &Lost) {
    let (reason, hook) = match event.reason {
        LostReason::BufferFull => ("buffer_full", None),
        LostReason::Recursion { hook } => ("recursion", Some(hook)),
    };
    write_line(
        buffer,
        &LostLine {
            schema: SCHEMA,
            r#type: "lost",
            timestamp: timestamp(event.timestamp),
            mono_ns: event.mono.0,
            seq: event.seq,
            count: event.count,
            cpu: event.cpu,
            reason,
            hook,
        },
    );
}

/// The exact bytes of a name, in base64, if the name as text is not exact.
pub(crate) fn raw(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes)
        .is_err()
        .then(|| STANDARD.encode(bytes))
}

/// A date with all nine digits.
pub(crate) fn timestamp(timestamp: Timestamp) -> String {
    format!("{timestamp:.9}")
}

/// Adds one line of JSON.
pub(super) fn write_line(buffer: &mut Vec<u8>, line: &impl Serialize) {
    // Neither the buffer nor these types can fail.
    let _ = line.serialize(&mut serde_json::Serializer::with_formatter(
        &mut *buffer,
        Harmless,
    ));
    buffer.push(b'\n');
}

/// Escapes what JSON allows, but a terminal would obey or not show.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // Nearly every fragment: one look at all bytes at once instead of one at each character.
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return CompactFormatter.write_string_fragment(writer, fragment);
        }
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{events::MonotonicNs, output::text::sample};

    fn line(event: FirstDirty) -> String {
        let mut buffer = Vec::new();
        record(&mut buffer, &Record::FirstDirty(event));
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn an_event_looks_as_documented() {
        assert_eq!(
            line(sample()),
            concat!(
                r#"{"schema":1,"type":"first_dirty","timestamp":"2026-11-22T16:31:00.123456789Z","mono_ns":123,"seq":7,"op":"mmap","pre":true,"#,
                r#""generation":3,"path":"/data/db/heap","inode":131,"igen":9,"device":{"major":8,"minor":1},"fs":"ext4","range":{"offset":4096,"length":4096},"#,
                r#""comm":"postgres","pid":100,"tid":101,"uid":70,"gid":71,"cgroup":4242}"#,
                "\n"
            )
        );
    }

    #[test]
    fn hostile_names_stay_one_valid_line_and_can_be_had_raw() {
        let mut event = sample();
        event.path.bytes = bytes::Bytes::from_static(b"/a\nb\x1b\x7f\xff\xc2\x9b\xe2\x80\xae");
        let text = line(event);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.trim_end().chars().any(is_dangerous));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["path"], "/a\nb\u{1b}\u{7f}\u{fffd}\u{9b}\u{202e}");
        let raw = STANDARD
            .decode(value["path_raw"].as_str().unwrap())
            .unwrap();
        assert_eq!(raw, b"/a\nb\x1b\x7f\xff\xc2\x9b\xe2\x80\xae");
    }

    #[test]
    fn what_cannot_be_seen_is_escaped_beyond_the_basic_plane_too() {
        let mut event = sample();
        event.path.bytes = "/a\u{200b}\u{e0041}".into();
        let text = line(event);
        assert!(text.contains(r#""path":"/a\u200b\udb40\udc41""#), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["path"], "/a\u{200b}\u{e0041}");
    }

    #[test]
    fn losses_and_summary_look_as_documented() {
        let mut buffer = Vec::new();
        let timestamp = sample().timestamp;
        let event = Lost {
            seq: 8,
            timestamp,
            mono: MonotonicNs(5),
            count: 12,
            cpu: Some(1),
            reason: LostReason::BufferFull,
        };
        record(&mut buffer, &Record::Lost(event));
        summary(
            &mut buffer,
            &Summary {
                events: 3,
                lost: 12,
                ..Summary::default()
            },
        );
        let text = String::from_utf8(buffer).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"schema":1,"type":"lost","timestamp":"2026-11-22T16:31:00.123456789Z","mono_ns":5,"seq":8,"count":12,"cpu":1,"reason":"buffer_full"}"#,
                "\n",
                r#"{"schema":1,"type":"summary","events":3,"lost":12,"retried":0,"late":0,"untracked":0}"#,
                "\n"
            )
        );
    }
}
