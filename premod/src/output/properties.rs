//! Properties of the outputs and the filters, for whatever events, names and patterns.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use proptest::{collection::vec, prelude::*};
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::{
    Cgroup, Columns, Exclude, Filter,
    json::{self, Records},
    printable, table,
    text::{is_dangerous, sample},
};
use crate::{
    Summary,
    events::{FirstDirty, Lost, LostReason, MonotonicNs, Op, Record},
    fuzz,
};

/// The only line in the buffer, without its newline.
fn line(buffer: Vec<u8>) -> String {
    let text = String::from_utf8(buffer).expect("valid UTF-8");
    let line = text.strip_suffix('\n').expect("a newline at the end");
    assert!(!line.chars().any(is_dangerous), "{line:?}");
    line.to_owned()
}

/// The only line in the buffer, which is an object.
fn object(buffer: Vec<u8>) -> Value {
    let line = line(buffer);
    let value: Value = serde_json::from_str(&line).expect("valid JSON");
    assert!(value.is_object(), "{line}");
    value
}

/// A field's exact bytes, as docs/json.md says that they are to be had.
fn exactly(value: &Value, field: &str) -> Vec<u8> {
    let text = value[field].as_str().expect("a string");
    let Some(raw) = value[format!("{field}_raw")].as_str() else {
        return text.as_bytes().to_vec();
    };
    let raw = STANDARD.decode(raw).expect("base64");
    assert_eq!(text, String::from_utf8_lossy(&raw));
    assert!(std::str::from_utf8(&raw).is_err(), "{text} was exact");
    raw
}

fn row(event: &FirstDirty, columns: Columns) -> String {
    let mut buffer = Vec::new();
    table::event(&mut buffer, event, columns);
    line(buffer)
}

/// What `printable` made of some bytes, turned back.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        (bytes, rest) = match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => ([bytes, b"\\".to_vec()].concat(), tail),
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("two digits");
                let byte = u8::from_str_radix(digits, 16).expect("hexadecimal");
                ([bytes, vec![byte]].concat(), tail)
            }
            _ => ([bytes, vec![*first]].concat(), tail),
        };
    }
    bytes
}

/// Each field from one of two events.
fn mixed(one: &FirstDirty, other: &FirstDirty, mask: u16) -> FirstDirty {
    let from = |bit: u32| if mask >> bit & 1 == 0 { one } else { other };
    FirstDirty {
        timestamp: from(0).timestamp,
        op: from(1).op,
        pre: from(2).pre,
        retried: from(3).retried,
        untracked: from(4).untracked,
        path: from(5).path.clone(),
        key: from(6).key,
        filesystem: from(7).filesystem.clone(),
        range: from(8).range,
        comm: from(9).comm.clone(),
        pid: from(10).pid,
        tid: from(11).tid,
        uid: from(12).uid,
        gid: from(13).gid,
        cgroup: from(14).cgroup,
        ..from(15).clone()
    }
}

proptest! {
    #![proptest_config(fuzz::effort(2000))]

    #[test]
    fn json_is_one_harmless_line_with_the_exact_bytes(event in fuzz::event()) {
        let mut buffer = Vec::new();
        Records::default().record(&mut buffer, &Record::FirstDirty(event.clone()));
        let value = object(buffer);
        prop_assert_eq!(exactly(&value, "path"), event.path.bytes.to_vec());
        prop_assert_eq!(exactly(&value, "comm"), event.comm.to_vec());
        prop_assert_eq!(&value["fs"], &*event.filesystem);
        prop_assert_eq!(&value["op"], event.op.name());
        for (field, number) in [
            ("mono_ns", event.mono.0),
            ("seq", event.seq),
            ("generation", event.generation),
            ("inode", event.key.inode),
            ("igen", event.key.generation.into()),
            ("pid", event.pid.0.into()),
            ("tid", event.tid.0.into()),
            ("uid", event.uid.into()),
            ("gid", event.gid.into()),
            ("cgroup", event.cgroup),
        ] {
            prop_assert_eq!(value[field].as_u64(), Some(number), "{}", field);
        }
        for (field, flag) in [
            ("retried", event.retried),
            ("untracked", event.untracked),
            ("deleted", event.path.deleted),
            ("path_cut", event.path.cut),
            ("path_in_fs", event.path.in_filesystem),
            ("undecided", event.path.undecided),
        ] {
            prop_assert_eq!(value.get(field), flag.then_some(&Value::Bool(true)), "{}", field);
        }
        prop_assert_eq!(&value["pre"], event.pre);
        let range = value.get("range").map(|range| (range["offset"].as_u64(), range["length"].as_u64()));
        prop_assert_eq!(range, event.range.map(|range| (Some(range.offset), range.length)));
    }

    #[test]
    fn dates_have_nine_digits(seconds in vec(-2i64..3, 1..6), fraction in 0..1_000_000_000) {
        let mut records = Records::default();
        for second in seconds {
            let mut event = sample();
            event.timestamp = Timestamp::new(second, fraction).expect("near 1970");
            let expected = json::timestamp(event.timestamp);
            let mut buffer = Vec::new();
            records.record(&mut buffer, &Record::FirstDirty(event));
            prop_assert_eq!(&object(buffer)["timestamp"], &expected);
        }
    }

    #[test]
    fn losses_and_summaries_are_lines_of_json(
        numbers in proptest::array::uniform6(any::<u64>()), cpu in any::<Option<u32>>(), full in any::<bool>()
    ) {
        let [seq, mono, count, events, late, lost] = numbers;
        let hook = "security_file_permission";
        let mut buffer = Vec::new();
        Records::default().record(&mut buffer, &Record::Lost(Lost {
            seq,
            timestamp: sample().timestamp,
            mono: MonotonicNs(mono),
            count,
            cpu,
            reason: if full { LostReason::BufferFull } else { LostReason::Recursion { hook } },
        }));
        let value = object(buffer);
        prop_assert_eq!(value["count"].as_u64(), Some(count));
        prop_assert_eq!(value["cpu"].as_u64(), cpu.map(u64::from));
        prop_assert_eq!(value["hook"].as_str(), (!full).then_some(hook));
        let mut buffer = Vec::new();
        json::summary(&mut buffer, &Summary { events, late, lost, ..Summary::default() });
        let value = object(buffer);
        prop_assert_eq!(value["events"].as_u64(), Some(events));
        prop_assert_eq!(value["late"].as_u64(), Some(late));
        prop_assert_eq!(value["lost"].as_u64(), Some(lost));
    }

    #[test]
    fn a_row_of_the_table_is_one_harmless_line_and_ends_with_the_path(
        event in fuzz::event(), time in any::<bool>()
    ) {
        let row = row(&event, Columns { time });
        let path = printable(&event.path.bytes);
        let mut end = &row[..];
        for (mark, of) in [(" (undecided)", event.path.undecided), (" (deleted)", event.path.deleted)] {
            end = end.strip_suffix(mark).filter(|_| of).unwrap_or(end);
        }
        prop_assert!(end.ends_with(&path), "{row:?}");
    }

    #[test]
    fn no_task_name_pushes_the_path_out_of_its_column(comm in fuzz::bytes(16)) {
        let mut event = sample();
        let column = |event: &FirstDirty| {
            let row = row(event, Columns::default());
            row[..row.find("/data/db").expect("the path")].width()
        };
        let usual = column(&event);
        event.comm = comm.into();
        prop_assert_eq!(column(&event), usual);
    }

    #[test]
    fn what_is_printed_is_harmless_and_can_be_turned_back(bytes in fuzz::bytes(400)) {
        let text = printable(&bytes);
        prop_assert!(!text.chars().any(is_dangerous), "{text:?}");
        prop_assert_eq!(unescaped(&text), bytes);
    }
}

proptest! {
    #![proptest_config(fuzz::effort(300))]

    #[test]
    fn a_line_does_not_depend_on_the_lines_before(
        one in fuzz::event(), other in fuzz::event(), masks in vec(any::<u16>(), 2..8)
    ) {
        let (mut kept, mut records) = (Vec::new(), Records::default());
        let mut alone = Vec::new();
        for mask in masks {
            let record = Record::FirstDirty(mixed(&one, &other, mask));
            records.record(&mut kept, &record);
            Records::default().record(&mut alone, &record);
        }
        prop_assert_eq!(kept, alone);
    }
}

/// Whether a filter with these patterns leaves out a file of this path.
fn excludes(set: &Exclude, path: &[u8]) -> bool {
    let mut event = sample();
    event.path.bytes = path.to_vec().into();
    let filter = Filter {
        exclude: set.clone(),
        ..Filter::default()
    };
    !filter.accepts(&event)
}

/// A pattern for exactly this text.
fn literal(text: &str) -> String {
    text.chars()
        .flat_map(|character| ['\\', character])
        .collect()
}

fn one_glob(pattern: String) -> Exclude {
    Exclude::new(&[pattern]).expect("a pattern")
}

proptest! {
    #![proptest_config(fuzz::effort(1000))]

    #[test]
    fn a_literal_pattern_leaves_out_that_file_and_no_other(names in fuzz::names(), other in fuzz::name()) {
        prop_assume!(!names.is_empty());
        let path = fuzz::joined(&names, 0);
        let leaf = names.last().expect("a name");
        let beside = [&path[..path.len() - leaf.len()], &other].concat();
        // Patterns are text: what is not cannot be named by itself.
        for text in [leaf, &path].into_iter().filter_map(|bytes| std::str::from_utf8(bytes).ok()) {
            let pattern = literal(text);
            let set = one_glob(pattern.clone());
            prop_assert!(excludes(&set, &path), "{pattern:?}");
            prop_assert_eq!(excludes(&set, &beside), *leaf == other, "{:?}", pattern);
        }
    }

    #[test]
    fn stars_stand_for_any_bytes(names in fuzz::names()) {
        prop_assume!(!names.is_empty());
        let path = fuzz::joined(&names, 0);
        for pattern in ["*", "**", "/**/*"] {
            prop_assert!(excludes(&one_glob(pattern.to_owned()), &path), "{pattern}");
        }
        prop_assert_eq!(excludes(&one_glob("/*".to_owned()), &path), names.len() == 1);
    }

    #[test]
    fn any_pattern_works_or_is_refused_in_one_sentence(
        patterns in vec(fuzz::text(40), 1..4), event in fuzz::event()
    ) {
        match Exclude::new(&patterns) {
            Ok(exclude) => {
                let _ = Filter { exclude, ..Filter::default() }.accepts(&event);
            }
            Err(error) => {
                let sentence = printable(error.to_string().as_bytes());
                prop_assert!(sentence.starts_with("--exclude"), "{sentence}");
                prop_assert!(!sentence.chars().any(is_dangerous), "{sentence:?}");
            }
        }
    }

    #[test]
    fn other_filters_compare_exactly(event in fuzz::event(), other in fuzz::bytes(16)) {
        let by_comm = |comm: &[u8]| Filter { comms: vec![comm.to_vec()], ..Filter::default() };
        prop_assert!(by_comm(&event.comm).accepts(&event));
        let kept = &other[..other.len().min(15)];
        prop_assert_eq!(by_comm(&other).accepts(&event), other == event.comm || kept == event.comm);
        let all = Filter {
            pids: vec![event.pid],
            tids: vec![event.tid],
            uids: vec![event.uid],
            comms: vec![event.comm.to_vec()],
            cgroups: vec![Cgroup::Alone(event.cgroup)],
            ops: vec![event.op],
            filesystems: vec![event.filesystem.to_string()],
            ..Filter::default()
        };
        prop_assert!(all.accepts(&event));
        let ops = Op::ALL.into_iter().filter(|op| *op != event.op).collect();
        let all_but_op = Filter { ops, ..all };
        prop_assert!(!all_but_op.accepts(&event));
    }
}
