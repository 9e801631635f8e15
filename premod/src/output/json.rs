//! The JSON form: one object per line. Field names are a contract; see docs/json.md.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use super::line::{DATES, Dates, Kept, Line, key, write_harmless};
use crate::{
    Summary,
    events::{Device, FirstDirty, Lost, LostReason, Op, PathChange, Pid, Record, Tid},
};

/// [`SCHEMA`] as a literal, for text that is put together beforehand.
macro_rules! schema {
    () => {
        1
    };
}
pub(super) use schema;

/// Version of the field names. It changes only if a field is renamed, removed or means something else.
pub(crate) const SCHEMA: u32 = schema!();

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
    contended: u64,
    unplaced: u64,
    undecided: u64,
}

/// Writes records, and keeps what the lines of consecutive events mostly have in common.
#[derive(Default)]
pub(super) struct Records {
    dates: Dates,
    /// What is done, and what is to be said of it.
    kind: Kept<(Op, bool, bool, bool)>,
    /// Device and type of the filesystem.
    filesystem: Kept<(Device, Arc<str>)>,
    /// The thread, and the end of the line.
    thread: Kept<Thread>,
}

impl Records {
    /// Adds a record's line.
    pub(super) fn record(&mut self, buffer: &mut Vec<u8>, record: &Record) {
        match record {
            Record::FirstDirty(event) => self.first_dirty(buffer, event),
            Record::Lost(event) => lost(buffer, event),
            Record::Path(change) => path(buffer, change),
        }
    }

    fn first_dirty(&mut self, buffer: &mut Vec<u8>, event: &FirstDirty) {
        let mut line = Line::begin(buffer, "first_dirty");
        self.dates
            .add(&mut line, key!("timestamp"), event.timestamp);
        line.number(key!("mono_ns"), event.mono.0);
        line.number(key!("seq"), event.seq);
        let kind = (event.op, event.pre, event.retried, event.untracked);
        self.kind.add(
            &mut line,
            |&of| of == kind,
            |line| {
                line.word(key!("op"), event.op.name());
                line.truth(key!("pre"), event.pre);
                line.only_if(key!("retried"), event.retried);
                line.only_if(key!("untracked"), event.untracked);
                kind
            },
        );
        line.number(key!("generation"), event.generation);
        line.bytes(key!("path"), key!("path_raw"), &event.path.bytes);
        line.only_if(key!("deleted"), event.path.deleted);
        line.only_if(key!("path_cut"), event.path.cut);
        line.only_if(key!("path_in_fs"), event.path.in_filesystem);
        line.only_if(key!("undecided"), event.path.undecided);
        line.number(key!("inode"), event.key.inode);
        line.number(key!("igen"), event.key.generation.into());
        let device = event.key.device;
        self.filesystem.add(
            &mut line,
            |(of, filesystem)| *of == device && *filesystem == event.filesystem,
            |line| {
                line.number(",\"device\":{\"major\":", device.major.into());
                line.number(key!("minor"), device.minor.into());
                line.push("}");
                line.text(key!("fs"), &event.filesystem);
                (device, Arc::clone(&event.filesystem))
            },
        );
        if let Some(range) = event.range {
            line.number(",\"range\":{\"offset\":", range.offset);
            match range.length {
                Some(length) => line.number(key!("length"), length),
                None => line.push(",\"length\":null"),
            }
            line.push("}");
        }
        self.thread.add(
            &mut line,
            |thread| thread.is_of(event),
            |line| {
                line.bytes(key!("comm"), key!("comm_raw"), &event.comm);
                line.number(key!("pid"), event.pid.0.into());
                line.number(key!("tid"), event.tid.0.into());
                line.number(key!("uid"), event.uid.into());
                line.number(key!("gid"), event.gid.into());
                line.number(key!("cgroup"), event.cgroup);
                line.push("}\n");
                Thread::of(event)
            },
        );
    }
}

/// Who makes an event.
struct Thread {
    comm: Bytes,
    pid: Pid,
    tid: Tid,
    uid: u32,
    gid: u32,
    cgroup: u64,
}

impl Thread {
    fn of(event: &FirstDirty) -> Self {
        Self {
            comm: event.comm.clone(),
            pid: event.pid,
            tid: event.tid,
            uid: event.uid,
            gid: event.gid,
            cgroup: event.cgroup,
        }
    }

    fn is_of(&self, event: &FirstDirty) -> bool {
        self.tid == event.tid
            && self.pid == event.pid
            && self.uid == event.uid
            && self.gid == event.gid
            && self.cgroup == event.cgroup
            && self.comm == event.comm
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
        contended,
        unplaced,
        undecided,
    } = *summary;
    let line = SummaryLine {
        schema: SCHEMA,
        r#type: "summary",
        events,
        lost,
        retried,
        late,
        untracked,
        contended,
        unplaced,
        undecided,
    };
    write_line(buffer, &line);
}

fn lost(buffer: &mut Vec<u8>, event: &Lost) {
    let (reason, hook) = match event.reason {
        LostReason::BufferFull => ("buffer_full", None),
        LostReason::KprobesOff => ("kprobes_off", None),
        LostReason::Malformed => ("malformed", None),
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

fn path(buffer: &mut Vec<u8>, change: &PathChange) {
    let mut line = Line::begin(buffer, "path");
    line.date(key!("timestamp"), change.timestamp);
    line.number(key!("mono_ns"), change.mono.0);
    line.number(key!("seq"), change.seq);
    line.word(key!("change"), change.change.name());
    let name = change.path.as_os_str().as_encoded_bytes();
    line.bytes(key!("path"), key!("path_raw"), name);
    line.push("}\n");
}

/// The exact bytes of a name, in base64, if the name as text is not exact.
pub(crate) fn raw(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| base64(bytes))
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A date with all nine digits.
pub(crate) fn timestamp(timestamp: Timestamp) -> String {
    DATES.timestamp_to_string(&timestamp)
}

/// Adds one line of JSON.
pub(super) fn write_line(buffer: &mut Vec<u8>, line: &impl Serialize) {
    write_harmless(buffer, line);
    buffer.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::{MonotonicNs, PathChanged},
        output::text::{is_dangerous, sample},
    };

    fn line(event: FirstDirty) -> String {
        let mut buffer = Vec::new();
        Records::default().record(&mut buffer, &Record::FirstDirty(event));
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
        event.path.bytes = Bytes::from_static(b"/a\nb\x1b\x7f\xff\xc2\x9b\xe2\x80\xae");
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
    fn a_change_of_a_path_looks_as_documented() {
        let change = PathChange {
            seq: 9,
            timestamp: sample().timestamp,
            mono: MonotonicNs(5),
            path: "/srv/\u{fc}".into(),
            change: PathChanged::Replaced,
        };
        let mut buffer = Vec::new();
        Records::default().record(&mut buffer, &Record::Path(change));
        assert_eq!(
            String::from_utf8(buffer).unwrap(),
            concat!(
                r#"{"schema":1,"type":"path","timestamp":"2026-11-22T16:31:00.123456789Z","mono_ns":5,"seq":9,"change":"replaced","path":"/srv/ü"}"#,
                "\n"
            )
        );
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
        Records::default().record(&mut buffer, &Record::Lost(event));
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
                r#"{"schema":1,"type":"summary","events":3,"lost":12,"retried":0,"late":0,"untracked":0,"contended":0,"unplaced":0,"undecided":0}"#,
                "\n"
            )
        );
    }
}
