//! Turns ring buffer records into events.

use std::sync::{Arc, LazyLock};

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use premod_common::event::{
    DirectoryRecord, FLAG_DELETED, FLAG_PATH_CUT, FLAG_PATH_IN_FS, FLAG_PRE, FLAG_RANGE,
    FLAG_RETRY, FLAG_UNDECIDED, FLAG_UNTRACKED, FirstDirtyRecord, MARK_FOREIGN, MARK_IN_CGROUP,
    MARK_MOUNT_POINT, MARK_SEVERAL_NAMES, Op, TO_THE_END,
};

use super::{
    directories::{Directories, Directory},
    record::{Device, FirstDirty, InodeKey, MonotonicNs, Path, Pid, Range, Tid},
};
use crate::namespaces::monotonic_offset;

/// Both clocks, read at the same moment: what turns monotonic time into a date.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// Date.
    pub(crate) real: Timestamp,
    /// The machine's own `CLOCK_MONOTONIC` in nanoseconds.
    pub(crate) mono: MonotonicNs,
}

const SECOND: i64 = 1_000_000_000;

/// How far the clock of this time namespace is ahead of the machine's.
static AHEAD: LazyLock<i64> = LazyLock::new(monotonic_offset);

impl Clocks {
    pub(crate) fn now() -> Self {
        let mono = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let mono = mono.tv_sec as u64 * SECOND as u64 + mono.tv_nsec as u64;
        // The kernel's programs know only the machine's own clock.
        let mono = mono.wrapping_add_signed(AHEAD.wrapping_neg());
        Self {
            real: Timestamp::now(),
            mono: MonotonicNs(mono),
        }
    }

    /// The date of a moment on the monotonic clock, by how the clocks stood when they were read.
    pub(crate) fn date(&self, mono: MonotonicNs) -> Timestamp {
        // Negative for what happened after the clocks were read.
        let ago = self.mono.0.wrapping_sub(mono.0) as i64;
        let nanoseconds = i64::from(self.real.subsec_nanosecond()) - ago % SECOND;
        let carried = nanoseconds.div_euclid(SECOND);
        let seconds = self.real.as_second() - ago / SECOND + carried;
        Timestamp::new(seconds, (nanoseconds - carried * SECOND) as i32).unwrap_or(self.real)
    }
}

/// How many bytes of names are allocated at a time.
const ARENA: usize = 64 << 10;

/// Turns records into events. An event costs no allocation: its path shares a block with those of others, and what is
/// nearly always the same as last time is shared with the last event.
pub(crate) struct Decoder {
    arena: BytesMut,
    directories: Directories,
    unplaced: u64,
    /// The task name of the last event, as the kernel wrote it and as bytes.
    comm: ([u8; 16], Bytes),
    /// The filesystem type of the last path that was told whole, as the kernel wrote it and as text.
    filesystem: ([u8; 16], Arc<str>),
    /// In the place of a filesystem type that is not known.
    no_filesystem: Arc<str>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            arena: BytesMut::new(),
            directories: Directories::default(),
            unplaced: 0,
            comm: ([0; 16], Bytes::new()),
            filesystem: ([0; 16], "".into()),
            no_filesystem: "".into(),
        }
    }

    /// Takes note of a directory; `names` are its path's components, leaf first.
    pub(crate) fn directory(&mut self, record: &DirectoryRecord, names: &[u8]) {
        let mut path = Vec::new();
        join(&mut path, names, record.flags & FLAG_PATH_CUT != 0);
        let directory = Directory {
            path: path.into(),
            flags: record.flags & (FLAG_PATH_CUT | FLAG_PATH_IN_FS),
            marks: record.marks & (MARK_FOREIGN | MARK_MOUNT_POINT),
            filesystem: self.filesystem(record.filesystem),
        };
        self.directories.insert(record.token, directory);
    }

    /// Events whose directory was not known, so that they have their own name only.
    pub(crate) fn unplaced(&self) -> u64 {
        self.unplaced
    }

    /// Decodes one record; `names` are the path's components, leaf first.
    #[inline]
    pub(crate) fn first_dirty(
        &mut self,
        record: &FirstDirtyRecord,
        names: &[u8],
        clocks: &Clocks,
    ) -> FirstDirty {
        let has = |flag| record.flags & flag != 0;
        let mono = MonotonicNs(record.mono_ns);
        let (path, filesystem) = self.path(record, names);
        FirstDirty {
            seq: 0,
            timestamp: clocks.date(mono),
            mono,
            op: Op::from_number(record.op).unwrap_or(Op::Unknown),
            pre: has(FLAG_PRE),
            retried: has(FLAG_RETRY),
            untracked: has(FLAG_UNTRACKED),
            generation: record.generation,
            path,
            key: InodeKey {
                device: Device::from_kernel(record.device),
                inode: record.inode,
                generation: record.inode_generation,
            },
            filesystem,
            range: has(FLAG_RANGE).then_some(Range {
                offset: record.offset,
                length: (record.length != TO_THE_END).then_some(record.length),
            }),
            comm: self.comm(record.comm),
            pid: Pid(record.pid),
            tid: Tid(record.tid),
            uid: record.uid,
            gid: record.gid,
            cgroup: record.cgroup,
            in_cgroup: record.marks & MARK_IN_CGROUP != 0,
        }
    }

    /// The whole path, and the type of the filesystem.
    #[inline]
    fn path(&mut self, record: &FirstDirtyRecord, names: &[u8]) -> (Path, Arc<str>) {
        let (directory, flags, marks, filesystem): (&[u8], _, _, _) = if record.directory == 0 {
            (&[], 0, 0, self.filesystem(record.filesystem))
        } else if let Some(known) = self.directories.get(record.directory) {
            let filesystem = Arc::clone(&known.filesystem);
            (&known.path, known.flags, known.marks, filesystem)
        } else {
            self.unplaced += 1;
            // It may be anybody's.
            let marks = MARK_FOREIGN | MARK_MOUNT_POINT;
            (&[], FLAG_PATH_CUT, marks, Arc::clone(&self.no_filesystem))
        };
        let flags = record.flags | flags;
        let has = |flag| flags & flag != 0;
        let cut = has(FLAG_PATH_CUT);
        let needed = directory.len() + 1 + names.len();
        if self.arena.capacity() < needed {
            self.arena = BytesMut::with_capacity(ARENA.max(needed));
        }
        let beginning = directory.strip_prefix(b"/").filter(|_| cut);
        self.arena.put_slice(beginning.unwrap_or(directory));
        join(&mut self.arena, names, cut);
        let path = Path {
            bytes: self.arena.split().freeze(),
            deleted: has(FLAG_DELETED),
            cut,
            in_filesystem: has(FLAG_PATH_IN_FS),
            undecided: has(FLAG_UNDECIDED),
            foreign: marks & MARK_FOREIGN != 0,
            mount_point: marks & MARK_MOUNT_POINT != 0,
            several_names: record.marks & MARK_SEVERAL_NAMES != 0,
        };
        (path, filesystem)
    }

    fn comm(&mut self, name: [u8; 16]) -> Bytes {
        if self.comm.0 != name {
            self.comm = (name, Bytes::copy_from_slice(until_nul(&name)));
        }
        self.comm.1.clone()
    }

    fn filesystem(&mut self, name: [u8; 16]) -> Arc<str> {
        if self.filesystem.0 != name {
            let text = String::from_utf8_lossy(until_nul(&name));
            self.filesystem = (name, text.into());
        }
        Arc::clone(&self.filesystem.1)
    }
}

/// Turns the components round and adds them. A path whose beginning is missing does not begin with `/`.
fn join(path: &mut (impl BufMut + AsRef<[u8]>), names: &[u8], cut: bool) {
    let names = names.strip_suffix(b"\0").unwrap_or(names);
    if !names.is_empty() {
        for component in names.rsplit(|&byte| byte == 0) {
            if !cut || !path.as_ref().is_empty() {
                path.put_u8(b'/');
            }
            path.put_slice(component);
        }
    }
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use premod_common::event::DIRECTORIES_REMEMBERED;

    use super::*;

    fn path(names: &[u8], cut: bool) -> Vec<u8> {
        let mut path = Vec::new();
        join(&mut path, names, cut);
        path
    }

    #[test]
    fn components_are_turned_round() {
        assert_eq!(path(b"heap\0db\0data\0", false), b"/data/db/heap");
        assert_eq!(path(b"heap\0", false), b"/heap");
        assert_eq!(path(b"", false), b"");
        assert_eq!(path(b"heap\0db\0", true), b"db/heap");
        assert_eq!(path(b"a\nb\xff\0", false), b"/a\nb\xff");
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
        let event = Decoder::new().first_dirty(&record, b"f\0", &Clocks::now());
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

    #[test]
    fn a_directory_that_is_forgotten_is_not_taken_for_another() {
        let mut decoder = Decoder::new();
        for token in 1..=DIRECTORIES_REMEMBERED as u64 + 1 {
            let record = DirectoryRecord {
                token,
                filesystem: *b"ext4\0\0\0\0\0\0\0\0\0\0\0\0",
                ..DirectoryRecord::default()
            };
            decoder.directory(&record, b"db\0data\0");
        }
        let mut event = |directory| {
            let record = FirstDirtyRecord {
                directory,
                ..FirstDirtyRecord::default()
            };
            decoder.first_dirty(&record, b"heap\0", &Clocks::now())
        };
        let placed = event(2);
        assert_eq!(placed.path.bytes, "/data/db/heap");
        assert!(!placed.path.cut && &*placed.filesystem == "ext4");
        let unplaced = event(1);
        assert_eq!(unplaced.path.bytes, "heap");
        assert!(unplaced.path.cut && unplaced.filesystem.is_empty());
        assert_eq!(decoder.unplaced(), 1);
    }
}
