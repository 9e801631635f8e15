//! What has to happen by chance otherwise: a thread is held in its gap on purpose, or premod itself.

use std::{os::unix::fs::FileExt, path::Path, thread, time::Duration};

use rustix::{mm::Advice, process::Signal};
use serde_json::Value;

use super::{
    actor::Outcome,
    policies::{self, actor_named, records, terminate},
    premod::{Ended, Freeze},
    process,
};
use crate::{
    harness::Place,
    spin::{self, Gap},
    tests,
    workload::{Mapping, clean_file},
};

tests! {
    Alone a_writer_that_was_permitted_before_premod_came_is_waited_for,
    Alone a_store_is_held_while_another_one_is_being_held on Preempted,
    Alone modifications_whose_records_are_lost_violate_the_freeze,
}

/// How long premod is given to make the mistake of not waiting.
const TEMPTATION: Duration = Duration::from_secs(1);
/// Longer than premod takes to start, also on a machine that is busy with other things.
const SPIN: Duration = Duration::from_secs(60);
/// Fewer programs than a freeze has, and enough to say that it is loading them.
const SOME_PROGRAMS: usize = 10;

fn freeze(path: &Path, options: &[&str]) -> Freeze {
    let mut words = vec![path.to_str().expect("a plain path"), "--deny"];
    words.extend(options);
    Freeze::start(&words)
}

/// The kernel's watchdogs, and for how many seconds they shall bear that nobody gets a CPU.
const WATCHDOGS: [(&str, &str); 2] = [
    // Soft lockups are told after twice this.
    ("/proc/sys/kernel/watchdog_thresh", "60"),
    (
        "/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout",
        "120",
    ),
];

/// The watchdogs are patient until this is dropped.
struct Patience([String; WATCHDOGS.len()]);

impl Patience {
    fn begin() -> Self {
        Self(WATCHDOGS.map(|(file, patient)| {
            let usual = std::fs::read_to_string(file).expect("a watchdog");
            std::fs::write(file, patient).expect("a watchdog");
            usual
        }))
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        for ((file, _), usual) in WATCHDOGS.iter().zip(&self.0) {
            std::fs::write(file, usual).expect("a watchdog");
        }
    }
}

/// Waits until premod has loaded some of its programs. None of them hangs anywhere before all are loaded.
fn wait_until_loading(freeze: &Freeze) {
    let descriptors = format!("/proc/{}/fd", freeze.pid());
    let programs = || -> std::io::Result<usize> {
        let names = std::fs::read_dir(&descriptors)?.map_while(|entry| Some(entry.ok()?.path()));
        let targets = names.filter_map(|name| std::fs::read_link(name).ok());
        Ok(targets
            .filter(|target| target.ends_with("anon_inode:bpf-prog"))
            .count())
    };
    process::wait_for("premod loads its programs", || {
        programs().is_ok_and(|loaded| loaded >= SOME_PROGRAMS)
    });
}

/// Waits until premod's programs hang: it listens from then on, and begins to close.
fn wait_until_attached(freeze: &Freeze) {
    let socket = format!("/run/premod/{}.sock", freeze.pid());
    process::wait_for("premod's socket", || Path::new(&socket).exists());
}

/// On a machine that is busy with other things premod may take longer to start than a victim can be held.
fn a_writer_that_was_permitted_before_premod_came_is_waited_for(place: &Place) {
    let in_time = (0..3).any(|_| a_permitted_writer_is_waited_for(place));
    assert!(
        in_time,
        "premod took longer to start than the victim can be held"
    );
}

/// Whether premod had started in time for that.
fn a_permitted_writer_is_waited_for(place: &Place) -> bool {
    let path = place.file("data");
    let file = clean_file(&path);
    let _patience = Patience::begin();
    let mut open = spin::open(Gap::Permitted).with_limit(SPIN);
    let mut freeze = freeze(&path, &[]);
    wait_until_loading(&freeze);
    let mut held = open.hold(move || file.write_all_at(&[b'1'; 4096], 0));
    wait_until_attached(&freeze);
    thread::sleep(TEMPTATION);
    let is_frozen = freeze.is_frozen();
    let in_time = !held.has_left();
    assert!(!(in_time && is_frozen), "a writer is under way");
    let (written, _) = held.wait();
    written.expect("it had been permitted");
    if !is_frozen {
        freeze.frozen();
    }
    let bytes = std::fs::read(&path).expect("the file");
    assert_eq!(
        bytes[..4096],
        [b'1'; 4096],
        "its data came before the freeze"
    );
    terminate(freeze).expect(0);
    in_time
}

/// Whether a freeze was violated for a reason of which these words are part.
fn is_violated(ended: &Ended, reason: &str) -> bool {
    let is = |violation: &&Value| {
        let why = violation["why"].as_str().expect("a reason");
        why.contains(reason)
    };
    records(ended, "violated").iter().any(is)
}

/// The kernel skips some programs for a thread while another one, which had to leave the CPU, is inside of them. Not the
/// one that stops stores: nobody gets the CPU of a thread that is inside of it.
fn a_store_is_held_while_another_one_is_being_held(place: &Place) {
    /// Enough for the second to get the CPU, if it can.
    const LIMIT: Duration = Duration::from_secs(8);
    let way = "store through an old mapping";
    let mut actors = ["first", "second"].map(|name| actor_named(name, place, way));
    let freeze = policies::freeze(&actors.each_ref(), &["--mmap", "hold"]);
    for actor in &mut actors {
        actor.look();
    }
    let [first, second] = &mut actors;
    spin::run_process_on(second.pid(), spin::VICTIMS_CPU);
    {
        let mut gap = spin::open(Gap::Noting).with_limit(LIMIT);
        let held = gap.seize(first.pid(), || first.order());
        second.order();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(second.outcome(), Outcome::Waits, "nobody has the CPU");
        held.release();
    }
    for actor in &mut actors {
        process::wait_for("it is held", || actor.outcome() == Outcome::Held);
        assert_eq!(actor.look(), [false]);
    }
    terminate(freeze).expect(0);
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
