//! Turns ring buffer records into events.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use premod_common::event::{
    FLAG_DELETED, FLAG_PATH_CUT, FLAG_PATH_IN_FS, FLAG_PRE, FLAG_RANGE, FLAG_RETRY, FLAG_UNTRACKED,
    FirstDirtyRecord, Op, TO_THE_END,
};

use super::record::{Device, FirstDirty, InodeKey, MonotonicNs, Path, Pid, Range, Tid};

/// Both clocks, read at the same moment: what turns monotonic time into a date.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// Date.
    pub(crate) real: Timestamp,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub(crate) mono: MonotonicNs,
}

impl Clocks {
    pub(crate) fn now() -> Self {
        let mono = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let mono = mono.tv_sec as u64 * 1_000_000_000 + mono.tv_nsec as u64;
        Self {
            real: Timestamp::now(),
            mono: MonotonicNs(mono),
        }
    }

    /// The date of a moment on the monotonic clock, by how the clocks stood when they were read.
    pub(crate) fn date(&self, mono: MonotonicNs) -> Timestamp {
        // Negative for what happened after the clocks were read.
        let ago = self.mono.0.wrapping_sub(mono.0) as i64;
        self.real
            .checked_sub(jiff::SignedDuration::from_nanos(ago))
            .unwrap_or(self.real)
    }
}

/// How many bytes of names are allocated at a time.
const ARENA: usize = 64 << 10;

/// Turns records into events. An event costs no allocation: its names share a block with those of others.
pub(crate) struct Decoder {
    arena: BytesMut,
    /// The filesystem type of the last event, as the kernel wrote it and as text.
    filesystem: ([u8; 16], Arc<str>),
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            arena: BytesMut::new(),
            filesystem: ([0; 16], "".into()),
        }
    }

    /// Decodes one record; `names` are the path's components, leaf first.
    pub(crate) fn decode(
        &mut self,
        record: &FirstDirtyRecord,
        names: &[u8],
        clocks: &Clocks,
    ) -> FirstDirty {
        let has = |flag| record.flags & flag != 0;
        let mono = MonotonicNs(record.mono_ns);
        let cut = has(FLAG_PATH_CUT);
        let needed = names.len() + 1 + record.comm.len();
        if self.arena.capacity() < needed {
            self.arena = BytesMut::with_capacity(ARENA.max(needed));
        }
        FirstDirty {
            seq: 0,
            timestamp: clocks.date(mono),
            mono,
            op: Op::from_number(record.op).unwrap_or(Op::Unknown),
            pre: has(FLAG_PRE),
            retried: has(FLAG_RETRY),
            untracked: has(FLAG_UNTRACKED),
            generation: record.generation,
            path: Path {
                bytes: self.path(names, cut),
                deleted: has(FLAG_DELETED),
                cut,
                in_filesystem: has(FLAG_PATH_IN_FS),
            },
            key: InodeKey {
                device: Device::from_kernel(record.device),
                inode: record.inode,
                generation: record.inode_generation,
            },
            filesystem: self.filesystem(record.filesystem),
            range: has(FLAG_RANGE).then_some(Range {
                offset: record.offset,
                length: (record.length != TO_THE_END).then_some(record.length),
            }),
            comm: self.take(until_nul(&record.comm)),
            pid: Pid(record.pid),
            tid: Tid(record.tid),
            uid: record.uid,
            gid: record.gid,
            cgroup: record.cgroup,
        }
    }

    /// Turns the components round and joins them. A path whose beginning is missing does not begin with `/`.
    fn path(&mut self, names: &[u8], cut: bool) -> Bytes {
        let names = names.strip_suffix(b"\0").unwrap_or(names);
        if !names.is_empty() {
            for component in names.rsplit(|&byte| byte == 0) {
                if !cut || !self.arena.is_empty() {
                    self.arena.put_u8(b'/');
                }
                self.arena.put_slice(component);
            }
        }
        self.arena.split().freeze()
    }

    fn take(&mut self, text: &[u8]) -> Bytes {
        self.arena.put_slice(text);
        self.arena.split().freeze()
    }

    /// Nearly always the same as last time.
    fn filesystem(&mut self, name: [u8; 16]) -> Arc<str> {
        if self.filesystem.0 != name {
            let text = String::from_utf8_lossy(until_nul(&name));
            self.filesystem = (name, text.into());
        }
        Arc::clone(&self.filesystem.1)
    }
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(names: &[u8], cut: bool) -> Bytes {
        Decoder::new().path(names, cut)
    }

    #[test]
    fn components_are_turned_round() {
        assert_eq!(path(b"heap\0db\0data\0", false), "/data/db/heap");
        assert_eq!(path(b"heap\0", false), "/heap");
        assert_eq!(path(b"", false), "");
        assert_eq!(path(b"heap\0db\0", true), "db/heap");
        assert_eq!(path(b"a\nb\xff\0", false), &b"/a\nb\xff"[..]);
    }

    #[test]
    fn dates_follow_from_the_monotonic_clock() {
        let real: Timestamp = "2026-11-22T16:31:02Z".parse().unwrap();
        let clocks = Clocks {
            real,
            mono: MonotonicNs(5_000_000_000),
        };
        assert_eq!(
            clocks.date(MonotonicNs(3_500_000_000)).to_string(),
            "2026-11-22T16:31:00.5Z"
        );
        // After the clocks were read; and what no clock can say.
        assert_eq!(
            clocks.date(MonotonicNs(5_500_000_000)).to_string(),
            "2026-11-22T16:31:02.5Z"
        );
        let _ = (
            clocks.date(MonotonicNs(1 << 63)),
            clocks.date(MonotonicNs(u64::MAX)),
        );
    }

    #[test]
    fn flags_become_fields() {
        let record = FirstDirtyRecord {
            flags: FLAG_PRE | FLAG_RANGE | FLAG_DELETED,
            op: Op::Truncate as u8,
            offset: 10,
            length: TO_THE_END,
            device: 8 << 20 | 1,
            comm: *b"postgres\0\0\0\0\0\0\0\0",
            filesystem: *b"ext4\0\0\0\0\0\0\0\0\0\0\0\0",
            ..FirstDirtyRecord::default()
        };
        let event = Decoder::new().decode(&record, b"f\0", &Clocks::now());
        assert!(event.pre && event.path.deleted && !event.path.cut && !event.retried);
        assert_eq!(
            event.range,
            Some(Range {
                offset: 10,
                length: None
            })
        );
        assert_eq!(event.key.device, Device { major: 8, minor: 1 });
        assert_eq!(
            (&event.comm[..], &*event.filesystem),
            (&b"postgres"[..], "ext4")
        );
    }
}
