//! Properties of the way from the ring buffer to an event.

use std::collections::HashMap;

use premod_common::event::{
    FLAG_DELETED, FLAG_ECHO, FLAG_PATH_CUT, FLAG_PATH_IN_FS, FLAG_PRE, FLAG_RANGE, FLAG_RETRY,
    FLAG_UNTRACKED, FirstDirtyRecord, Item, NAMES_MAX, TO_THE_END,
};
use proptest::{collection::vec, prelude::*};

use super::{Clocks, Decoder, Device, Duplicates, FirstDirty, Op, Range};
use crate::fuzz;

/// What the tracer does with an item of the ring buffer.
fn read(item: &[u8]) -> Option<FirstDirty> {
    let Item::FirstDirty(record, names) = Item::decode(item)? else {
        return None;
    };
    Some(Decoder::new().decode(&record, names, &Clocks::now()))
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
            [event.path.deleted, event.path.cut, event.path.in_filesystem],
            [FLAG_DELETED, FLAG_PATH_CUT, FLAG_PATH_IN_FS].map(has)
        );
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
                    flags.resize(1 + echoes, FLAG_ECHO);
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
