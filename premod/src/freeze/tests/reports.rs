//! Reports as JSON, and for people.

use jiff::Timestamp;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::report;
use crate::{
    events::{Device, MonotonicNs, Op},
    freeze::{
        self, Event, Why,
        report::{
            Argv, CommName, CommandReport, FileReport, Held, PathName, SetReport, State, Violation,
            Violations, account::Account,
        },
    },
    fuzz,
    output::{is_dangerous, json_line, sets},
};

fn path() -> impl Strategy<Value = PathName> {
    fuzz::bytes(60).prop_map(|bytes| PathName(bytes.into()))
}

fn comm() -> impl Strategy<Value = CommName> {
    fuzz::bytes(15).prop_map(|bytes| CommName(bytes.into()))
}

fn ops() -> impl Strategy<Value = Option<Op>> {
    option::of(select(&Op::ALL[..]))
}

fn date() -> impl Strategy<Value = Timestamp> {
    (0..4_000_000_000i64, 0..1_000_000_000i32)
        .prop_map(|(second, nanosecond)| Timestamp::new(second, nanosecond).unwrap())
}

fn file() -> impl Strategy<Value = FileReport> {
    (path(), any::<(u32, u32, u64, Option<u32>)>()).prop_map(|(path, numbers)| {
        let (major, minor, inode, generation) = numbers;
        let device = Device { major, minor };
        FileReport {
            path,
            device,
            inode,
            generation,
        }
    })
}

fn held() -> impl Strategy<Value = Held> {
    let numbers = any::<(u32, u32, u64, bool)>();
    (comm(), ops(), option::of(path()), numbers).prop_map(|(comm, op, path, numbers)| {
        let (pid, tid, for_ns, stopped_by_others) = numbers;
        let (pid, tid) = (crate::events::Pid(pid), crate::events::Tid(tid));
        Held {
            pid,
            tid,
            comm,
            op,
            path,
            for_ns,
            stopped_by_others,
        }
    })
}

fn violation() -> impl Strategy<Value = Violation> {
    let who = (any::<Option<(u32, u32)>>(), option::of(comm()));
    (date(), option::of(path()), ops(), who, fuzz::text(30)).prop_map(
        |(timestamp, path, op, (ids, comm), why)| Violation {
            timestamp,
            path,
            op,
            pid: ids.map(|(pid, _)| crate::events::Pid(pid)),
            tid: ids.map(|(_, tid)| crate::events::Tid(tid)),
            comm,
            why,
        },
    )
}

fn command() -> impl Strategy<Value = CommandReport> {
    (any::<u32>(), vec(fuzz::bytes(20), 0..4)).prop_map(|(pid, words)| CommandReport {
        pid: crate::events::Pid(pid),
        argv: Argv(words.into_iter().map(Into::into).collect()),
    })
}

fn any_report() -> impl Strategy<Value = SetReport> {
    let lists = (
        vec(file(), 0..4),
        vec(held(), 0..4),
        vec(violation(), 0..20),
    );
    let state = select(&[State::Freezing, State::Frozen, State::Thawed][..]);
    let numbers = any::<(u32, u64, u64, u64, u64)>();
    let rest = (
        state,
        date(),
        option::of(fuzz::text(8)),
        option::of(command()),
    );
    (lists, numbers, rest).prop_map(|(lists, numbers, rest)| {
        let (files, held, all) = lists;
        let (pid, deadline, remaining_ns, refused, killed) = numbers;
        let (state, began, errno, command) = rest;
        let mut violations = Violations::default();
        all.into_iter().for_each(|one| violations.add(one));
        SetReport {
            pid: crate::events::Pid(pid),
            deadline_mono_ns: MonotonicNs(deadline),
            remaining_ns,
            refused,
            killed,
            state,
            began,
            errno,
            files,
            held,
            violations,
            command,
            ..report(0)
        }
    })
}

proptest! {
    #![proptest_config(fuzz::effort(1000))]

    #[test]
    fn a_report_is_the_same_after_a_journey_as_json(report in any_report()) {
        let line = String::from_utf8(json_line(&report)).unwrap();
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert!(!line.trim_end_matches('\n').chars().any(is_dangerous), "{}", line);
        let back: SetReport = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(back, report);
    }

    #[test]
    fn nothing_of_a_report_reaches_the_terminal_raw(report in any_report()) {
        let rows = 2 + report.files.len() + report.held.len() + usize::from(report.killed > 0)
            + usize::from(report.command.is_some())
            + match report.violations.first.len() { 0 => 0, told => told.min(15) + 1 + usize::from(told > 15) };
        let text = sets::table(std::slice::from_ref(&report));
        prop_assert!(!text.replace('\n', "").chars().any(is_dangerous), "{}", text);
        prop_assert_eq!(text.lines().count(), rows, "{}", text);
    }
}

#[test]
fn a_report_looks_as_documented() {
    let mut report = report(1);
    report.held[0].op = None;
    report.held[0].path = None;
    report.files[0].path = PathName(bytes::Bytes::from_static(b"/a\xff"));
    assert_eq!(
        String::from_utf8(json_line(&report)).unwrap(),
        concat!(
            r#"{"schema":1,"type":"freeze","pid":4711,"state":"frozen","mode":"deny","errno":"EBUSY","mmap":"hold","#,
            r#""began":"2026-11-22T16:31:00.123456789Z","deadline_mono_ns":60000000000,"remaining_ns":47650000000,"took_ns":12345678,"generation":1,"#,
            r#""files":[{"path":"/a�","path_raw":"L2H/","device":{"major":259,"minor":2},"inode":131,"igen":9}],"#,
            r#""held":[{"pid":4242,"tid":4243,"comm":"postgres","for_ns":3200000000,"stopped_by_others":false}],"#,
            r#""refused":2,"killed":0,"violations":{"count":1,"first":[{"timestamp":"2026-11-22T16:31:00.123456789Z","#,
            r#""path":"/srv/db/heap","op":"mmap","pid":4242,"tid":4243,"comm":"postgres","#,
            r#""why":"the kernel stored on behalf of the process"}]},"#,
            r#""command":{"pid":4712,"argv":["cp","/srv/db/heap","/backup"]}}"#,
            "\n"
        )
    );
}

#[test]
fn what_a_newer_premod_adds_is_ignored() {
    let line = String::from_utf8(json_line(&report(1))).unwrap();
    let newer = line
        .replace(r#""refused":2"#, r#""refused":2,"new":{"path":[1]}"#)
        .replace(r#""op":"mmap""#, r#""op":"teleport""#);
    let report: SetReport = serde_json::from_str(&newer).unwrap();
    assert_eq!(report.held[0].op, Some(Op::Unknown));
    assert_eq!(report.refused, 2);
}

#[test]
fn the_table_shows_a_row_and_details() {
    let mut second = report(0);
    second.errno = None;
    second.mode = premod_common::guard::Mode::Hold;
    second.files = vec![second.files[0].clone(); 18];
    second.held.clear();
    second.command = None;
    let mut first = report(1);
    first.violations.first[0].comm = None;
    first.violations.first[0].path = None;
    let text = sets::table(&[first, second]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "PREMOD  STATE     MODE         MMAP    LEFT      FILES   HELD  REFUSED  VIOLATIONS",
            "4711    frozen    deny=EBUSY   hold    47.6 s        1      1        2           1",
            "        file      /srv/db/heap",
            "        held      for 3.2 s: postgres (4242, thread 4243), mmap /srv/db/heap",
        ]
    );
    assert!(
        lines[4].starts_with("        VIOLATED  violated once: "),
        "{text}"
    );
    assert!(
        lines[5].ends_with(" mmap: the kernel stored on behalf of the process"),
        "{text}"
    );
    assert_eq!(lines[6], "        command   4712 cp /srv/db/heap /backup");
    assert_eq!(
        lines[7],
        "4711    frozen    hold         hold    47.6 s       18      0        2           0"
    );
    assert_eq!(lines.len(), 8 + 17);
    assert_eq!(lines[24], "        file      and 2 more (--json has all)");
}

#[test]
fn a_condition_that_lasts_is_told_once_and_each_modification_each_time() {
    let mut account = Account::begin(&[]);
    let mut told = |why, path: Option<&'static str>| {
        let event = Event::Violated(freeze::Violation {
            why,
            timestamp: Timestamp::UNIX_EPOCH,
            mono: MonotonicNs(1),
            path: path.map(|path| PathName(path.into())),
            op: None,
            task: None,
        });
        account.heed(&event)
    };
    assert!(told(Why::Replaced, Some("/one")) && told(Why::Replaced, Some("/other")));
    assert!(!told(Why::Replaced, Some("/one")));
    assert!(told(Why::Expired, None) && !told(Why::Expired, None));
    assert!(told(Why::Modified, Some("/one")) && told(Why::Modified, Some("/one")));
    assert!(account.is_violated());
}
