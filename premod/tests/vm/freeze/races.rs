//! What has to happen by chance otherwise: a thread is held in its gap on purpose, or premod itself.

use std::{os::unix::fs::FileExt, path::Path, thread, time::Duration};

use rustix::{mm::Advice, process::Signal};
use serde_json::Value;

use super::{
    actor::Outcome,
    policies::{self, actor_named, outcome, records, terminate},
    premod::{Ended, Freeze},
    process,
};
use crate::{
    harness::{self, Place},
    spin::{self, Gap},
    tests,
    workload::{Mapping, clean_file},
};

tests! {
    Alone a_writer_that_was_permitted_before_premod_came_is_waited_for,
    Alone a_store_is_held_although_the_programs_for_it_are_skipped_and_that_is_told,
    Alone modifications_whose_records_are_lost_violate_the_freeze,
}

/// How long premod is given to make the mistake of not waiting.
const TEMPTATION: Duration = Duration::from_secs(1);
/// A little less than the kernel's watchdogs bear, and longer than premod takes to start under emulation.
const SPIN: Duration = Duration::from_secs(18);

fn freeze(path: &Path, options: &[&str]) -> Freeze {
    let mut words = vec![path.to_str().expect("a plain path"), "--deny"];
    words.extend(options);
    Freeze::start(&words)
}

/// Waits until premod's programs hang: it listens from then on, and begins to close.
fn wait_until_attached(freeze: &Freeze) {
    let socket = format!("/run/premod/{}.sock", freeze.pid());
    process::wait_for("premod's socket", || Path::new(&socket).exists());
}

fn a_writer_that_was_permitted_before_premod_came_is_waited_for(place: &Place) {
    let path = place.file("data");
    let file = clean_file(&path);
    let mut open = spin::open(Gap::Permitted).with_limit(SPIN);
    let held = open.hold(move || file.write_all_at(&[b'1'; 4096], 0));
    let mut freeze = freeze(&path, &[]);
    wait_until_attached(&freeze);
    assert!(
        !held.has_left(),
        "premod took longer to start than the victim can be held"
    );
    thread::sleep(TEMPTATION);
    assert!(
        held.has_left() || !freeze.is_frozen(),
        "a writer is under way"
    );
    let (written, _) = held.release();
    written.expect("it had been permitted");
    freeze.frozen();
    let bytes = std::fs::read(&path).expect("the file");
    assert_eq!(
        bytes[..4096],
        [b'1'; 4096],
        "its data came before the freeze"
    );
    terminate(freeze).expect(0);
}

/// Whether a freeze was violated for a reason of which these words are part.
fn is_violated(ended: &Ended, reason: &str) -> bool {
    let is = |violation: &&Value| {
        let why = violation["why"].as_str().expect("a reason");
        why.contains(reason)
    };
    records(ended, "violated").iter().any(is)
}

/// Two programs stop a store. The kernel skips a program for a thread while another thread, which had to leave
/// the CPU, is inside of it: here the first thread is inside of the first program, the second inside of the
/// second, and the third meets neither. It happens where the kernel preempts itself everywhere.
fn a_store_is_held_although_the_programs_for_it_are_skipped_and_that_is_told(place: &Place) {
    /// Enough for all three to get the CPU.
    const LIMIT: Duration = Duration::from_secs(8);
    let way = "store through an old mapping";
    let mut actors = ["first", "second", "third"].map(|name| actor_named(name, place, way));
    let freeze = policies::freeze(&actors.each_ref(), &["--mmap", "hold"]);
    let preempts = harness::preempts_everywhere();
    let [first, second, third] = &mut actors;
    for actor in [&mut *first, &mut *second, &mut *third] {
        actor.look();
    }
    spin::run_process_on(third.pid(), spin::VICTIMS_CPU);
    {
        let mut outer = spin::open(Gap::Noting).with_limit(LIMIT);
        let mut inner = spin::open(Gap::Noting).with_limit(LIMIT);
        let one = outer.seize(first.pid(), || first.order());
        if preempts {
            let two = inner.seize(second.pid(), || second.order());
            assert_eq!(outcome(third), Outcome::Held);
            two.release();
        } else {
            third.order();
            thread::sleep(Duration::from_millis(100));
            assert_eq!(third.outcome(), Outcome::Waits, "nobody else has the CPU");
        }
        one.release();
    }
    for actor in [&mut *first, &mut *third] {
        process::wait_for("it is held", || actor.outcome() == Outcome::Held);
    }
    for actor in [&mut *first, &mut *second, &mut *third] {
        assert_eq!(actor.look(), [false]);
    }
    let ended = terminate(freeze).expect(if preempts { 17 } else { 0 });
    assert_eq!(is_violated(&ended, "skipped"), preempts, "{ended:?}");
    let named = records(&ended, "violated");
    assert!(named.iter().all(|line| line["path"].is_null()), "{named:?}");
}

/// premod does not read while more is modified than its buffer holds.
fn modifications_whose_records_are_lost_violate_the_freeze(place: &Place) {
    const PAGE: usize = 4096;
    /// The buffer has a place for 16,384 records.
    const PAGES: usize = 20_000;
    let path = place.file("data");
    let file = clean_file(&path);
    file.set_len((PAGES * PAGE) as u64).expect("ftruncate");
    let mut mapping = Mapping::shared(&file, PAGES * PAGE);
    // Without readahead each page is in a folio of its own, and each store is a fault of its own.
    // SAFETY: how memory is read ahead does not concern its users.
    unsafe { rustix::mm::madvise(mapping.at(0).cast(), PAGES * PAGE, Advice::Random) }
        .expect("madvise");
    let mut freeze = Freeze::start(&[path.to_str().expect("a plain path"), "--mmap", "report"]);
    freeze.frozen();
    freeze.signal(Signal::STOP);
    for page in 0..PAGES {
        mapping.store(page * PAGE, 1);
    }
    freeze.signal(Signal::CONT);
    let ended = terminate(freeze).expect(17);
    let told = records(&ended, "violated").len();
    assert!(told < PAGES, "nothing was lost of {told}");
    assert!(is_violated(&ended, "lost"), "{ended:?}");
}
