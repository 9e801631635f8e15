//! Modifiers that are under way when premod comes: each is held in its gap on purpose.

use std::{os::unix::fs::FileExt, path::Path, thread, time::Duration};

use super::{premod::Freeze, process};
use crate::{
    harness::Place,
    spin::{self, Gap},
    tests,
    workload::clean_file,
};

tests! {
    Alone a_writer_that_was_permitted_before_premod_came_is_waited_for,
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
    freeze.signal(rustix::process::Signal::TERM);
    freeze.end().expect(0);
}
