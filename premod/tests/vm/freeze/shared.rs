//! Freezes that go on at the same time share their programs, and nothing else.

use std::{collections::BTreeSet, fs, io::Write, path::Path, thread, time::Duration};

use aya::maps::{Array, Map, MapData};
use premod_common::guard::{Phase, Switch};
use rustix::process::Signal;

use super::{
    actor::Outcome,
    policies::{actor_named, freeze, outcome, records, terminate},
    premod::Freeze,
    process,
};
use crate::{harness::Place, tests, workload::clean_file};

tests! {
    Alone each_freeze_has_its_own_terms_and_its_own_end,
    Alone who_kills_one_freeze_frees_its_files_and_no_others,
    Alone a_freeze_that_nobody_looks_after_lets_everybody_pass,
    Alone what_one_freeze_has_started_is_held_by_another,
    Alone an_exchange_waits_for_every_freeze_on_its_filesystem,
    Alone a_name_is_watched_whoever_else_has_gone,
    Alone freezes_come_and_go_at_the_same_time,
}

/// Time for a signal to have its effect.
const EFFECT: Duration = Duration::from_millis(300);

/// How much is attached by premod, of whatever process.
fn attached() -> usize {
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    let descriptors = processes
        .filter_map(|process| fs::read_dir(process.path().join("fdinfo")).ok())
        .flat_map(Iterator::flatten);
    // A process, or a descriptor, that is gone meanwhile has none.
    let links: BTreeSet<String> = descriptors
        .filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok())
        .filter_map(|text| {
            Some(
                text.lines()
                    .find(|line| line.starts_with("link_id:"))?
                    .into(),
            )
        })
        .collect();
    links.len()
}

fn each_freeze_has_its_own_terms_and_its_own_end(place: &Place) {
    let mut first = actor_named("first", place, "pwrite");
    let mut second = actor_named("second", place, "pwrite");
    let mut third = actor_named("third", place, "pwrite");
    let denies = freeze(&[&first], &["--deny=EPERM"]);
    let by_one = attached();
    let denies_else = freeze(&[&second], &["--deny=EROFS"]);
    let holds = freeze(&[&third], &[]);
    assert!(by_one > 20, "{by_one}");
    assert_eq!(attached(), by_one, "they share what is attached");
    let refused = |outcome: Outcome, word: &str| match outcome {
        Outcome::Refused(why) => assert!(why.contains(word), "{why}"),
        other => panic!("{other:?}"),
    };
    refused(outcome(&mut first), "code: 1,");
    refused(outcome(&mut second), "code: 30,");
    assert_eq!(outcome(&mut third), Outcome::Held);
    // The one that has attached the programs is the first to end.
    let ended = terminate(denies).expect(0);
    assert_eq!(records(&ended, "refused").len(), 1, "{ended:?}");
    assert_eq!(outcome(&mut first), Outcome::Made);
    refused(outcome(&mut second), "code: 30,");
    thread::sleep(EFFECT);
    assert_eq!(third.outcome(), Outcome::Held);
    let ended = terminate(denies_else).expect(0);
    assert_eq!(records(&ended, "refused").len(), 1, "{ended:?}");
    assert_eq!(third.outcome(), Outcome::Held);
    let ended = terminate(holds).expect(0);
    assert_eq!(records(&ended, "held").len(), 1, "{ended:?}");
    process::wait_for("it goes on", || third.outcome() == Outcome::Made);
    process::wait_for("nothing is attached", || attached() == 0);
}

/// A freeze of another file comes, and goes.
fn somebody_else_freezes(place: &Place) {
    let path = place.file("unrelated");
    clean_file(&path);
    terminate(frozen(&path)).expect(0);
}

fn frozen(path: &Path) -> Freeze {
    let mut freeze = Freeze::start(&[path.to_str().expect("a plain path")]);
    freeze.frozen();
    freeze
}

fn who_kills_one_freeze_frees_its_files_and_no_others(place: &Place) {
    for kills_the_first in [true, false] {
        let name = |name: &str| format!("{name}-{kills_the_first}");
        let mut lost = actor_named(&name("lost"), place, "pwrite");
        let mut kept = actor_named(&name("kept"), place, "pwrite");
        let (dies, lives) = if kills_the_first {
            let dies = freeze(&[&lost], &[]);
            (dies, freeze(&[&kept], &[]))
        } else {
            let lives = freeze(&[&kept], &[]);
            (freeze(&[&lost], &[]), lives)
        };
        assert_eq!(outcome(&mut lost), Outcome::Held);
        assert_eq!(outcome(&mut kept), Outcome::Held);
        dies.signal(Signal::KILL);
        drop(dies.end());
        process::wait_for("it goes on", || lost.outcome() == Outcome::Made);
        assert_eq!(outcome(&mut lost), Outcome::Made);
        assert_eq!(kept.outcome(), Outcome::Held);
        // Whatever it has left is in nobody's way.
        let again = freeze(&[&lost], &["--deny=EROFS"]);
        assert!(matches!(outcome(&mut lost), Outcome::Refused(_)));
        terminate(again).expect(0);
        terminate(lives).expect(0);
        process::wait_for("it goes on", || kept.outcome() == Outcome::Made);
    }
}

/// Both premod and the keeper are killed, and another freeze keeps the programs attached.
fn a_freeze_that_nobody_looks_after_lets_everybody_pass(place: &Place) {
    let mut lost = actor_named("lost", place, "pwrite");
    let mut kept = actor_named("kept", place, "pwrite");
    let lives = freeze(&[&kept], &[]);
    let dies = freeze(&[&lost], &[]);
    somebody_else_freezes(place);
    assert_eq!(outcome(&mut lost), Outcome::Held);
    let pinned = |directory: &fs::DirEntry| {
        let name = directory.file_name();
        let pid = format!("{}-", dies.pid());
        name.to_str().is_some_and(|name| name.starts_with(&pid))
    };
    let mut directories = fs::read_dir("/sys/fs/bpf/premod").expect("pins").flatten();
    let directory = directories.find(pinned).expect("its pins");
    let switch = MapData::from_pin(directory.path().join("switch")).expect("its switch");
    let switch: Array<_, Switch> = Map::Array(switch).try_into().expect("a switch");
    let phase = || switch.get(&0, 0).expect("a switch").phase;
    assert_eq!(phase(), Phase::Closed as u64);
    for keeper in process::children(dies.pid(), "") {
        process::signal(keeper, Signal::KILL);
    }
    dies.signal(Signal::KILL);
    drop(dies.end());
    process::wait_for("its switch is open", || phase() == Phase::Open as u64);
    process::wait_for("it goes on", || lost.outcome() == Outcome::Made);
    assert_eq!(outcome(&mut lost), Outcome::Made);
    assert_eq!(outcome(&mut kept), Outcome::Held);
    terminate(lives).expect(0);
    process::wait_for("it goes on", || kept.outcome() == Outcome::Made);
}

fn what_one_freeze_has_started_is_held_by_another(place: &Place) {
    let (mine, others) = (place.file("mine"), place.file("others"));
    for path in [&mine, &others] {
        clean_file(path);
    }
    let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let mut other = frozen(&others);
    let command =
        "sleep 5; echo x >> \"$0\" || echo own > \"$2\"; echo x >> \"$1\" && echo other >> \"$2\"";
    let told = place.outside.join("told");
    let mut one = Freeze::start(&[
        &text(&mine),
        "--",
        "sh",
        "-c",
        command,
        &text(&mine),
        &text(&others),
        &text(&told),
    ]);
    // Whoever else goes meanwhile takes nothing away.
    one.frozen();
    somebody_else_freezes(place);
    let said = || fs::read_to_string(&told).unwrap_or_default();
    process::wait_for("its own file is refused", || said() == "own\n");
    other.hear("that it is held", |line| line["type"] == "held");
    thread::sleep(EFFECT);
    assert_eq!(said(), "own\n");
    terminate(other).expect(0);
    one.end().expect(0);
    assert_eq!(said(), "own\nother\n");
}

fn an_exchange_waits_for_every_freeze_on_its_filesystem(place: &Place) {
    if place.filesystem == "btrfs" {
        return;
    }
    let way = match place.filesystem.as_str() {
        "ext4" => "EXT4_IOC_MOVE_EXT (both files)",
        _ => "XFS_IOC_SWAPEXT (both files)",
    };
    let mut exchange = actor_named("exchange", place, way);
    let (one, two) = (place.file("one"), place.file("two"));
    for path in [&one, &two] {
        clean_file(path);
    }
    let (first, second) = (frozen(&one), frozen(&two));
    somebody_else_freezes(place);
    assert_eq!(outcome(&mut exchange), Outcome::Held);
    terminate(first).expect(0);
    thread::sleep(EFFECT);
    assert_eq!(exchange.outcome(), Outcome::Held);
    terminate(second).expect(0);
    process::wait_for("it goes on", || exchange.outcome() == Outcome::Made);
}

fn a_name_is_watched_whoever_else_has_gone(place: &Place) {
    let path = place.file("renamed");
    clean_file(&path);
    let unrelated = place.file("unrelated");
    clean_file(&unrelated);
    let (before, freeze) = (frozen(&unrelated), frozen(&path));
    terminate(before).expect(0);
    // Soon enough that premod does not see it by looking at the path.
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).expect("rename");
    fs::rename(&aside, &path).expect("rename");
    terminate(freeze).expect(17);
}

/// One comes while the last one leaves, or while another one is about to attach the programs.
fn freezes_come_and_go_at_the_same_time(place: &Place) {
    const AT_A_TIME: usize = 4;
    const ROUNDS: usize = 2;
    let mut kept = actor_named("kept", place, "pwrite");
    let lives = freeze(&[&kept], &["--deny"]);
    thread::scope(|threads| {
        for number in 0..AT_A_TIME {
            threads.spawn(move || {
                let path = place.file(&number.to_string());
                clean_file(&path);
                let path = path.to_str().expect("a plain path");
                for round in 0..ROUNDS {
                    let mut freeze = Freeze::start(&["--deny", path]);
                    freeze.frozen();
                    let mut file = fs::OpenOptions::new()
                        .append(true)
                        .open(path)
                        .expect("open");
                    assert!(file.write_all(b"x").is_err(), "{number}, {round}");
                    if (number + round) % 4 == 0 {
                        freeze.signal(Signal::KILL);
                        drop(freeze.end());
                    } else {
                        terminate(freeze).expect(0);
                    }
                }
            });
        }
        for _ in 0..10 {
            thread::sleep(EFFECT);
            assert!(matches!(outcome(&mut kept), Outcome::Refused(_)));
        }
    });
    assert!(matches!(outcome(&mut kept), Outcome::Refused(_)));
    terminate(lives).expect(0);
    assert_eq!(outcome(&mut kept), Outcome::Made);
}
