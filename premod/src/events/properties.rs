//! Properties of the way from the ring buffer to an event.

use std::collections::HashMap;

use premod_common::event::{
    DirectoryRecord, FLAG_DELETED, FLAG_PATH_CUT, FLAG_PATH_IN_FS, FLAG_PRE, FLAG_RANGE,
    FLAG_RETRY, FLAG_UNDECIDED, FLAG_UNTRACKED, FirstDirtyRecord, Item, MARK_FOREIGN,
    MARK_IN_CGROUP, MARK_MOUNT_POINT, MARK_SEVERAL_NAMES, NAMES_MAX, TO_THE_END,
};
use proptest::{collection::vec, prelude::*};

use super::{Clocks, Decoder, Device, Duplicates, FirstDirty, Op, Range};
use crate::fuzz;

/// What the tracer does with an item of the ring buffer.
fn read_on(decoder: &mut Decoder, item: &[u8]) -> Option<FirstDirty> {
    match Item::decode(item)? {
        Item::FirstDirty(record, names) => {
            Some(decoder.first_dirty(&record, names, &Clocks::now()))
        }
        Item::Directory(record, names) => {
            decoder.directory(&record, names);
            None
        }
    }
}

fn read(item: &[u8]) -> Option<FirstDirty> {
    read_on(&mut Decoder::new(), item)
}

/// Bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0);
    &field[..end.unwrap_or(field.len())]
}

fn items() -> impl Strategy<Value = Vec<u8>> {
    let whole = (fuzz::record(), fuzz::names());
    whole.prop_map(|(record, names)| fuzz::item(&record, &names))
}

proptest! {
    #![proptest_config(fuzz::effort(2000))]

    #[test]
    fn any_bytes_are_an_event_or_refused(
        bytes in prop_oneof![vec(any::<u8>(), 0..400), vec(any::<u8>(), 0..NAMES_MAX + 1000)]
    ) {
        // A kind that is seldom met by chance.
        let bytes = [&1u32.to_ne_bytes(), &bytes[..]].concat();
        let length = bytes.get(4..6).map(|field| u16::from_ne_bytes([field[0], field[1]]));
        let whole = length.is_some_and(|length| bytes.len() >= 136 + usize::from(length));
        prop_assert_eq!(read(&bytes).is_some(), whole);
    }

    #[test]
    fn a_damaged_record_is_an_event_or_refused(bytes in items().prop_flat_map(fuzz::mutated)) {
        if let Some(event) = read(&bytes) {
            // Nothing comes from beyond the item, and each name costs a slash for its NUL.
            prop_assert!(event.path.bytes.len() <= bytes.len() - FirstDirtyRecord::SIZE + 1);
            prop_assert!(!event.path.bytes.contains(&0) && !event.comm.contains(&0));
        }
    }

    #[test]
    fn every_field_comes_through(record in fuzz::record(), names in fuzz::names()) {
        let event = read(&fuzz::item(&record, &names)).expect("it is whole");
        let has = |flag| record.flags & flag != 0;
        prop_assert_eq!(&event.path.bytes[..], &fuzz::joined(&names, record.flags)[..]);
        prop_assert_eq!(&event.comm[..], text(&record.comm));
        prop_assert_eq!(&*event.filesystem, String::from_utf8_lossy(text(&record.filesystem)));
        prop_assert_eq!(event.mono.0, record.mono_ns);
        prop_assert_eq!(event.generation, record.generation);
        prop_assert_eq!(event.key.inode, record.inode);
        prop_assert_eq!(event.key.generation, record.inode_generation);
        let Device { major, minor } = event.key.device;
        prop_assert_eq!(major << 20 | minor, record.device);
        prop_assert_eq!(
            (event.pid.0, event.tid.0, event.uid, event.gid, event.cgroup),
            (record.pid, record.tid, record.uid, record.gid, record.cgroup)
        );
        let op = Op::ALL.get(usize::from(record.op)).copied();
        prop_assert_eq!(event.op, op.unwrap_or(Op::Unknown));
        let whole = |length| (length != TO_THE_END).then_some(length);
        let range = Range { offset: record.offset, length: whole(record.length) };
        prop_assert_eq!(event.range, has(FLAG_RANGE).then_some(range));
        prop_assert_eq!(
            [event.pre, event.retried, event.untracked],
            [FLAG_PRE, FLAG_RETRY, FLAG_UNTRACKED].map(has)
        );
        prop_assert_eq!(
            [event.path.deleted, event.path.cut, event.path.in_filesystem, event.path.undecided],
            [FLAG_DELETED, FLAG_PATH_CUT, FLAG_PATH_IN_FS, FLAG_UNDECIDED].map(has)
        );
        prop_assert_eq!(
            [event.in_cgroup, event.path.several_names, event.path.foreign, event.path.mount_point],
            [MARK_IN_CGROUP, MARK_SEVERAL_NAMES, 0, 0].map(|mark| record.marks & mark != 0)
        );
    }
}

/// Something in the ring buffer: a directory, or a file in one.
#[derive(Clone, Debug)]
enum Told {
    Directory(DirectoryRecord, Vec<Vec<u8>>),
    File(FirstDirtyRecord, Vec<u8>),
}

impl Told {
    fn item(&self) -> Vec<u8> {
        match self {
            Self::Directory(record, names) => fuzz::directory_item(record, names),
            Self::File(record, name) => fuzz::item(record, std::slice::from_ref(name)),
        }
    }
}

/// Directories, some of them told again, and files in them, and in others that were never told.
fn told() -> impl Strategy<Value = Told> {
    let directory = (fuzz::directory(), fuzz::names())
        .prop_map(|(record, names)| Told::Directory(record, names));
    let file = (fuzz::record(), 1..8u64, fuzz::name()).prop_map(|(mut record, token, name)| {
        record.directory = token;
        Told::File(record, name)
    });
    prop_oneof![1 => directory, 2 => file]
}

proptest! {
    #![proptest_config(fuzz::effort(200))]

    #[test]
    fn a_file_lies_in_the_directory_that_was_told_last_or_in_none(
        told in vec(told(), 0..16)
    ) {
        let mut decoder = Decoder::new();
        let mut known = HashMap::new();
        let mut unplaced = 0;
        for told in told {
            let event = read_on(&mut decoder, &told.item());
            let (record, name) = match told {
                Told::Directory(record, names) => {
                    prop_assert!(event.is_none());
                    known.insert(record.token, (record, names));
                    continue;
                }
                Told::File(record, name) => (record, name),
            };
            let event = event.expect("it is whole");
            let mut flags = record.flags;
            let mut marks = MARK_FOREIGN | MARK_MOUNT_POINT;
            let mut names = Vec::new();
            let mut filesystem = String::new();
            if let Some((directory, above)) = known.get(&record.directory) {
                flags |= directory.flags & (FLAG_PATH_CUT | FLAG_PATH_IN_FS);
                marks = directory.marks;
                names.extend_from_slice(above);
                filesystem = String::from_utf8_lossy(text(&directory.filesystem)).into_owned();
            } else {
                flags |= FLAG_PATH_CUT;
                unplaced += 1;
            }
            names.push(name);
            prop_assert_eq!(&event.path.bytes[..], &fuzz::joined(&names, flags)[..]);
            prop_assert_eq!(&*event.filesystem, filesystem);
            prop_assert_eq!(
                [event.path.deleted, event.path.cut, event.path.in_filesystem],
                [FLAG_DELETED, FLAG_PATH_CUT, FLAG_PATH_IN_FS].map(|flag| flags & flag != 0)
            );
            prop_assert_eq!(
                [event.path.foreign, event.path.mount_point],
                [MARK_FOREIGN, MARK_MOUNT_POINT].map(|mark| marks & mark != 0)
            );
            prop_assert_eq!(decoder.unplaced(), unplaced);
        }
    }

    #[test]
    fn damaged_directories_are_told_or_refused(
        items in vec(told().prop_map(|told| told.item()).prop_flat_map(fuzz::mutated), 1..8)
    ) {
        let mut decoder = Decoder::new();
        let mut longest = 0;
        for item in items {
            let names = item.len().saturating_sub(DirectoryRecord::SIZE) + 1;
            if let Some(event) = read_on(&mut decoder, &item) {
                prop_assert!(event.path.bytes.len() <= longest + names);
                prop_assert!(!event.path.bytes.contains(&0));
            }
            longest = longest.max(names);
        }
    }
}

proptest! {
    #![proptest_config(fuzz::effort(1000))]

    /// Each generation has one announcement, perhaps a repeated one, and any number of echoes.
    #[test]
    fn of_any_number_of_echoes_in_any_order_one_event_is_left(
        announcements in vec((0..4u64, 1..6u64, any::<bool>(), 0..4usize), 0..40)
            .prop_map(|generations| {
                let mut all = HashMap::new();
                for (inode, generation, retry, echoes) in generations {
                    let flags = if retry { FLAG_RETRY } else { 0 };
                    let mut flags = vec![flags];
                    flags.resize(1 + echoes, FLAG_PRE);
                    all.insert((inode, generation), flags);
                }
                all.into_iter()
                    .flat_map(|(key, flags)| flags.into_iter().map(move |flags| (key, flags)))
                    .collect::<Vec<_>>()
            })
            .prop_shuffle()
    ) {
        let mut duplicates = Duplicates::default();
        let mut delivered: HashMap<_, u32> = HashMap::new();
        for &((inode_address, generation), flags) in &announcements {
            let record = FirstDirtyRecord { inode_address, generation, flags, ..Default::default() };
            *delivered.entry((inode_address, generation)).or_default() +=
                u32::from(!duplicates.is_duplicate(&record));
        }
        prop_assert!(delivered.values().all(|&count| count == 1), "{delivered:?}");
    }
}
