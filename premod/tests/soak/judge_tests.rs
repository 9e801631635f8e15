//! The soak's judge can find fault: tested with made-up histories, without a VM.

#[expect(dead_code, reason = "what the report of a fault needs")]
mod judge;

use judge::{Content, Event, FileId, Judge, Numbers, Period, Reason};

const FILE: FileId = FileId {
    filesystem: 0,
    inode: 12,
    generation: 99,
};

fn event(mono_ns: u64, generation: u64) -> Event {
    Event {
        mono_ns,
        pre: true,
        generation,
        untracked: false,
        op: "write".to_owned(),
        pid: 1,
        name: Some("s1-0".to_owned()),
    }
}

fn content(hash: u64) -> Content {
    Content { size: 1, hash }
}

/// From 100 to 200, with a modification that was complete at 150.
fn period() -> Period<()> {
    Period {
        file: FILE,
        prefix: "s1-".to_owned(),
        check: 90,
        from: 100,
        to: 200,
        before: content(1),
        after: content(2),
        first_change: Some(150),
        changes: 1,
        undisturbed: true,
        log: (),
    }
}

fn judged(events: &[Event], period: &Period<()>) -> (Numbers, Vec<Reason>) {
    let mut judge = Judge::new();
    for event in events {
        judge.hear(FILE, event.clone());
    }
    judge.judge(period);
    let reasons = judge.faults.iter().map(|fault| fault.reason).collect();
    (judge.numbers, reasons)
}

#[test]
fn a_change_with_an_event_before_it_is_in_order() {
    let (numbers, faults) = judged(&[event(140, 1)], &period());
    assert_eq!(faults, []);
    assert_eq!((numbers.changed, numbers.before, numbers.late), (1, 1, 0));
}

#[test]
fn a_change_without_an_event_is_found() {
    assert_eq!(judged(&[], &period()).1, [Reason::Unannounced]);
    // The change that nobody has logged, too: a store that went on after its process was counted out.
    let unlogged = Period {
        first_change: None,
        ..period()
    };
    assert_eq!(judged(&[], &unlogged).1, [Reason::Unannounced]);
    let grown = Period {
        after: Content { size: 2, hash: 1 },
        ..period()
    };
    assert_eq!(judged(&[], &grown).1, [Reason::Unannounced]);
}

#[test]
fn an_event_of_another_time_or_file_does_not_count() {
    let (numbers, faults) = judged(&[event(99, 1)], &period());
    assert_eq!((numbers.unobserved, faults), (1, vec![Reason::Unannounced]));
    assert_eq!(judged(&[event(201, 1)], &period()).1, [Reason::Unannounced]);
    let other = Period {
        file: FileId {
            generation: 98,
            ..FILE
        },
        ..period()
    };
    assert_eq!(judged(&[event(140, 1)], &other).1, [Reason::Unannounced]);
}

#[test]
fn an_event_counts_for_one_period_only() {
    let mut judge = Judge::new();
    judge.hear(FILE, event(140, 1));
    judge.judge(&period());
    let next = Period {
        from: 210,
        to: 300,
        first_change: Some(250),
        ..period()
    };
    judge.hear(FILE, event(205, 2));
    judge.judge(&next);
    assert_eq!(judge.faults.len(), 1);
    assert_eq!(judge.faults[0].reason, Reason::Unannounced);
    assert_eq!((judge.numbers.between, judge.numbers.unobserved), (1, 0));
}

#[test]
fn a_modification_that_left_the_same_content_needs_an_event_too() {
    let same = Period {
        after: content(1),
        ..period()
    };
    assert_eq!(judged(&[], &same).1, [Reason::Silent]);
    let (numbers, faults) = judged(&[event(140, 1)], &same);
    assert_eq!((numbers.same, faults), (1, vec![]));
}

#[test]
fn an_event_that_says_before_and_comes_after_is_found() {
    assert_eq!(judged(&[event(160, 1)], &period()).1, [Reason::After]);
}

#[test]
fn a_late_event_is_counted_as_late() {
    let late = Event {
        pre: false,
        ..event(160, 1)
    };
    let (numbers, faults) = judged(&[late], &period());
    assert_eq!((numbers.late, numbers.before, faults), (1, 0, vec![]));
}

#[test]
fn an_event_without_a_modification_is_a_false_alarm_and_allowed() {
    let quiet = Period {
        after: content(1),
        first_change: None,
        changes: 0,
        ..period()
    };
    let (numbers, faults) = judged(&[event(140, 1)], &quiet);
    assert_eq!((numbers.false_alarms, faults), (1, vec![]));
    assert_eq!(judged(&[], &quiet).1, []);
}

#[test]
fn a_second_event_is_found_unless_something_was_written_back() {
    let events = [event(140, 1), event(160, 2)];
    assert_eq!(judged(&events, &period()).1, [Reason::Repeated]);
    let disturbed = Period {
        undisturbed: false,
        ..period()
    };
    let (numbers, faults) = judged(&events, &disturbed);
    assert_eq!((numbers.repeated, faults), (1, vec![]));
}

#[test]
fn two_modifications_that_begin_a_period_together_may_both_be_announced() {
    let events = [event(140, 1), event(149, 2)];
    let (numbers, faults) = judged(&events, &period());
    assert_eq!((numbers.together, faults), (1, vec![]));
}

#[test]
fn a_generation_that_is_missing_or_comes_twice_is_found() {
    let disturbed = Period {
        undisturbed: false,
        ..period()
    };
    let faults = |generations: &[u64]| {
        let events: Vec<Event> = generations
            .iter()
            .map(|&number| event(140, number))
            .collect();
        judged(&events, &disturbed).1
    };
    assert_eq!(
        faults(&[1, 2, 1, 2, 3]),
        [],
        "an evicted inode begins again"
    );
    assert_eq!(faults(&[1, 3]), [Reason::Gap]);
    assert_eq!(faults(&[1, 2, 2]), [Reason::Twice]);
}

#[test]
fn an_event_with_another_files_name_is_found() {
    let named = |name: Option<&str>| Event {
        name: name.map(str::to_owned),
        ..event(140, 1)
    };
    assert_eq!(
        judged(&[named(Some("s10-0"))], &period()).1,
        [Reason::WrongName]
    );
    assert_eq!(judged(&[named(None)], &period()).1, []);
}

#[test]
fn only_a_loss_of_that_time_explains_a_missing_event() {
    let found = |noticed: &[u64]| {
        let mut judge = Judge::new();
        judge.judge(&period());
        for &at in noticed {
            judge.lose(at, "vfs_truncate");
        }
        let (unexplained, explained) = judge.sorted_faults();
        (unexplained.len(), explained.len())
    };
    assert_eq!(found(&[]), (1, 0));
    assert_eq!(found(&[89, 10_000_000_000]), (1, 0));
    assert_eq!(found(&[1_000_000_000]), (0, 1));
    assert_eq!(found(&[90]), (0, 1), "a sync before the period");
}

#[test]
fn a_loss_does_not_explain_an_event_too_many() {
    let mut judge = Judge::new();
    judge.hear(FILE, event(140, 1));
    judge.hear(FILE, event(160, 2));
    judge.judge(&period());
    judge.lose(170, "buffer");
    assert_eq!(judge.sorted_faults().0.len(), 1);
}
