//! Whoever was held goes on after the thaw, whatever else has happened to it or to those before it.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    policies::{actor, freeze, outcome, records, terminate},
    premod::Freeze,
    process,
};
use crate::{freeze::actor::Outcome, harness::Place, tests, workload::clean_file};

tests! {
    Alone a_stop_of_the_terminals_that_stops_nobody_keeps_nobody_stopped,
    Alone who_was_stopped_by_others_too_stays_stopped,
    Alone a_store_that_somebody_lets_through_is_told,
    Alone a_process_with_the_number_of_one_that_died_held_goes_on,
}

/// Time for a signal to have its effect.
const EFFECT: Duration = Duration::from_millis(300);
/// Time for premod to flush a file again.
const FLUSH: Duration = Duration::from_secs(2);

/// A held process that does this with the stops of the terminal, in a group of its own: an orphaned one, or one that this
/// process could continue.
fn held(path: &Path, disposition: libc::sighandler_t, orphaned: bool) -> Child {
    let mut command = Command::new("sh");
    command.arg("-c").arg("echo x >> \"$0\"").arg(path);
    let set = move || {
        if orphaned {
            rustix::process::setsid()?;
        } else {
            rustix::process::setpgid(None, None)?;
        }
        for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
            // SAFETY: no handler is set that the program does not have.
            unsafe { libc::signal(signal, disposition) };
        }
        Ok(())
    };
    // SAFETY: system calls only.
    unsafe { command.pre_exec(set) };
    let child = command.spawn().expect("sh");
    process::wait_for("it is held", || process::is_stopped(child.id()));
    child
}

fn frozen(path: &Path) -> Freeze {
    let mut freeze = Freeze::start(&[path.to_str().expect("a plain path")]);
    freeze.frozen();
    freeze
}

fn a_stop_of_the_terminals_that_stops_nobody_keeps_nobody_stopped(place: &Place) {
    let path = place.file("data");
    clean_file(&path);
    let freeze = frozen(&path);
    let mut all = Vec::new();
    for signal in [Signal::TSTP, Signal::TTIN, Signal::TTOU] {
        let ignores = held(&path, libc::SIG_IGN, false);
        let orphan = held(&path, libc::SIG_DFL, true);
        for child in [ignores, orphan] {
            process::signal(child.id(), signal);
            all.push(child);
        }
    }
    thread::sleep(EFFECT);
    terminate(freeze).expect(0);
    for child in &mut all {
        assert!(process::wait(child).success(), "{}", child.id());
    }
}

fn who_was_stopped_by_others_too_stays_stopped(place: &Place) {
    let path = place.file("data");
    clean_file(&path);
    for signal in [Signal::STOP, Signal::TSTP] {
        let freeze = frozen(&path);
        let mut child = held(&path, libc::SIG_DFL, false);
        process::signal(child.id(), signal);
        let ended = terminate(freeze).expect(0);
        thread::sleep(EFFECT);
        assert!(process::is_stopped(child.id()), "{signal:?}: {ended:?}");
        let named = ended.stderr.contains("still stopped");
        assert_eq!(named, signal == Signal::STOP, "{ended:?}");
        process::signal(child.id(), Signal::CONT);
        assert!(process::wait(&mut child).success(), "{signal:?}");
    }
}

/// Until premod has flushed the file again, the page of a held store can be stored to.
fn a_store_that_somebody_lets_through_is_told(place: &Place) {
    let mut store = actor(place, "store through an old mapping");
    for lets_premod_flush in [true, false] {
        store.look();
        let mut freeze = freeze(&[&store], &["--mmap", "hold"]);
        if !lets_premod_flush {
            freeze.signal(Signal::STOP);
        }
        assert_eq!(outcome(&mut store), Outcome::Held);
        if lets_premod_flush {
            freeze.hear("that it is held", |line| line["type"] == "held");
            thread::sleep(FLUSH);
        }
        process::signal(store.pid(), Signal::CONT);
        thread::sleep(EFFECT);
        // A slow disk may not have got it all.
        let changed = store.look()[0];
        assert!(changed || lets_premod_flush, "its page was writable");
        freeze.signal(Signal::CONT);
        let ended = terminate(freeze);
        let is = |line: &&Value| line["pid"] == store.pid() && line["op"] == "mmap";
        let told = records(&ended, "violated").iter().any(is);
        // What premod was not in time to prevent it tells, also if nothing has come of it.
        assert!(told || !changed, "{ended:?}");
        ended.expect(if told { 17 } else { 0 });
        process::wait_for("it goes on", || store.outcome() == Outcome::Made);
    }
}

fn a_process_with_the_number_of_one_that_died_held_goes_on(place: &Place) {
    let mut first = actor(place, "pwrite");
    let path = first.files[0].path.clone();
    let freeze = frozen(Path::new(&path));
    assert_eq!(outcome(&mut first), Outcome::Held);
    let number = first.pid();
    drop(first);
    let mut second = Command::new("/proc/self/exe")
        .args(["write-as", &number.to_string(), &path])
        .spawn()
        .expect("the program");
    process::wait_for("it is held", || process::is_stopped(number));
    thread::sleep(EFFECT);
    terminate(freeze).expect(0);
    assert!(process::wait(&mut second).success());
}

/// `write-as NUMBER FILE`: writes in a child that has this process id.
pub(crate) fn write_as(number: &str, path: &Path) {
    let wanted: i32 = number.parse().expect("a number");
    let file = File::options().write(true).open(path).expect("open");
    for _ in 0..1000 {
        fs::write("/proc/sys/kernel/ns_last_pid", (wanted - 1).to_string()).expect("ns_last_pid");
        // SAFETY: there is one thread; the child makes system calls only.
        match unsafe { libc::fork() } {
            0 => {
                let own = rustix::process::getpid().as_raw_nonzero().get();
                let written = own != wanted || rustix::io::pwrite(&file, b"2", 0).is_ok();
                // SAFETY: ends the child.
                unsafe { libc::_exit(i32::from(!written)) };
            }
            child => {
                let mut status = 0;
                // SAFETY: our own child.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert_eq!(status, 0, "it could not write");
                if child == wanted {
                    return;
                }
            }
        }
    }
    panic!("somebody else has the process id {wanted}");
}
