//! Nobody sees that a process is held, and nobody but the thaw ends it: not its parent, not SIGCONT, not the end of its process
//! group's leader, and not another process that has its descriptors.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    policies::{actor, freeze, outcome, records, terminate},
    premod::Freeze,
    process,
};
use crate::{
    freeze::actor::{Actor, Outcome},
    harness::Place,
    tests,
    workload::clean_file,
};

tests! {
    Alone a_parent_that_looks_for_stops_sees_nothing on Every,
    Alone an_orphaned_process_group_is_not_killed,
    Alone sigcont_changes_nothing_of_a_hold on Every,
    Alone a_signal_that_kills_does_so_while_its_process_is_held,
    Alone who_is_traced_by_others_is_held_all_the_same on Every,
    Alone a_parent_that_stops_itself_goes_on_after_the_thaw,
    Alone a_store_that_a_tracer_lets_through_is_told on Every,
    Alone a_sibling_cannot_send_the_bytes_elsewhere,
    Alone without_its_keeper_a_freeze_holds_all_the_same on Every,
    Alone a_keeper_that_somebody_has_stopped_lets_go_at_once,
}

/// Time for whatever would go wrong.
const WHILE: Duration = Duration::from_secs(1);

fn frozen(path: &Path) -> Freeze {
    let mut freeze = Freeze::start(&[path.to_str().expect("a plain path")]);
    freeze.frozen();
    freeze
}

fn clean(place: &Place, name: &str) -> PathBuf {
    let path = place.file(name);
    clean_file(&path);
    path
}

fn writer(path: &Path) -> Child {
    let mut command = Command::new("sh");
    let command = command.args(["-c", "echo x >> \"$0\""]).arg(path);
    command.spawn().expect("sh")
}

/// What a parent hears of its child that asks as shells, su and sudo do, if there is anything.
fn heard_of(child: &Child) -> Option<libc::c_int> {
    let mut status = 0;
    let flags = libc::WUNTRACED | libc::WCONTINUED | libc::WNOHANG;
    // SAFETY: our own child, which nobody waits for meanwhile.
    let heard = unsafe { libc::waitpid(child.id().cast_signed(), &raw mut status, flags) };
    (heard != 0).then_some(status)
}

/// On a machine that has no time for the keeper a hold becomes a stop after a quarter of a second. That may happen to one
/// of three.
fn as_a_rule(mut nobody_sees: impl FnMut() -> bool) {
    let (mut seen, mut unseen) = (0, 0);
    while seen < 2 && unseen < 2 {
        if nobody_sees() {
            unseen += 1;
        } else {
            seen += 1;
        }
    }
    assert!(seen < 2, "two of three holds were seen");
}

fn a_parent_that_looks_for_stops_sees_nothing(place: &Place) {
    let path = clean(place, "data");
    as_a_rule(|| {
        let freeze = frozen(&path);
        #[expect(clippy::zombie_processes, reason = "`heard_of` waits for it")]
        let child = writer(&path);
        process::wait_for("it is held", || process::is_stopped(child.id()));
        thread::sleep(WHILE / 4);
        let mut heard = Vec::from_iter(heard_of(&child));
        terminate(freeze).expect(0);
        process::wait_for("it has ended", || {
            heard.extend(heard_of(&child));
            heard.last().is_some_and(|&status| libc::WIFEXITED(status))
        });
        assert_eq!(heard.last(), Some(&0), "how it ended");
        heard.len() == 1
    });
}

/// When a process group has lost whoever could continue it, and one of it is stopped, the kernel sends it SIGHUP.
fn an_orphaned_process_group_is_not_killed(place: &Place) {
    let path = clean(place, "data");
    let done = place.file("done");
    as_a_rule(|| {
        let _ = fs::remove_file(&done);
        let freeze = frozen(&path);
        let own = std::env::current_exe().expect("this program");
        let mut leader = Command::new(own)
            .arg("lead-an-orphan")
            .args([&path, &done])
            .spawn()
            .expect("this program");
        assert!(
            process::wait(&mut leader).success(),
            "its group is orphaned"
        );
        thread::sleep(WHILE);
        assert!(!done.exists(), "it is held");
        terminate(freeze).expect(0);
        let deadline = Instant::now() + 10 * WHILE;
        while !done.exists() && Instant::now() < deadline {
            thread::sleep(WHILE / 20);
        }
        done.exists()
    });
}

/// `lead-an-orphan FILE DONE`: a writer's parent ends while the writer is held, and a session leader lives on.
pub(crate) fn lead_an_orphan(path: &Path, done: &Path) {
    // SAFETY: there is one thread, and so in the children.
    unsafe {
        assert!(libc::setsid() > 0 || libc::getpgrp() == libc::getpid());
        let parent = libc::fork();
        if parent == 0 {
            libc::setpgid(0, 0);
            let writer = libc::fork();
            if writer == 0 {
                let written = fs::write(path, "written");
                let _ = written.and_then(|()| fs::write(done, ""));
                libc::_exit(0);
            }
            process::wait_for("it is held", || process::is_stopped(writer.cast_unsigned()));
            thread::sleep(WHILE / 4);
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(parent, &raw mut status, 0), parent);
        assert_eq!(status, 0, "the writer's parent");
    }
}

/// A writer and one that stores, both held.
fn held(place: &Place) -> ([Actor; 2], Freeze) {
    let ways = ["pwrite", "store through an old mapping"];
    let mut actors = ways.map(|way| actor(place, way));
    let freeze = freeze(&[&actors[0], &actors[1]], &[]);
    for actor in &mut actors {
        actor.look();
        assert_eq!(outcome(actor), Outcome::Held);
    }
    (actors, freeze)
}

fn sigcont_changes_nothing_of_a_hold(place: &Place) {
    let ([mut call, mut store], freeze) = held(place);
    for _ in 0..120 {
        for actor in [&call, &store] {
            process::signal(actor.pid(), Signal::CONT);
        }
        thread::sleep(WHILE / 60);
    }
    for actor in [&mut call, &mut store] {
        assert_eq!(actor.outcome(), Outcome::Held);
        assert_eq!(actor.look(), [false]);
    }
    terminate(freeze).expect(0);
    for actor in [call, store] {
        process::wait_for("it goes on", || actor.outcome() == Outcome::Made);
    }
}

fn a_signal_that_kills_does_so_while_its_process_is_held(place: &Place) {
    use std::os::unix::process::ExitStatusExt;
    let path = clean(place, "data");
    let freeze = frozen(&path);
    for signal in [Signal::KILL, Signal::TERM] {
        let mut child = writer(&path);
        process::wait_for("it is held", || process::is_stopped(child.id()));
        process::signal(child.id(), signal);
        let status = process::wait(&mut child);
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status}");
    }
    terminate(freeze).expect(0);
    assert!(
        !fs::read(&path).expect("read").ends_with(b"x\n"),
        "it has written"
    );
}

/// With the keeper everybody goes on whom it has seized, and is stopped at once by the kernel side.
fn without_its_keeper_a_freeze_holds_all_the_same(place: &Place) {
    let ([mut call, mut store], freeze) = held(place);
    let keepers = process::children(freeze.pid(), "keeper");
    assert_eq!(keepers.len(), 1, "the keeper");
    process::signal(keepers[0], Signal::KILL);
    thread::sleep(WHILE);
    for actor in [&mut call, &mut store] {
        process::wait_for("it is stopped", || actor.outcome() == Outcome::Held);
        assert_eq!(actor.look(), [false]);
    }
    terminate(freeze).expect(0);
    for actor in [call, store] {
        process::wait_for("it goes on", || actor.outcome() == Outcome::Made);
    }
}

fn a_keeper_that_somebody_has_stopped_lets_go_at_once(place: &Place) {
    let ([call, store], freeze) = held(place);
    process::signal(process::children(freeze.pid(), "keeper")[0], Signal::STOP);
    let began = Instant::now();
    terminate(freeze).expect(0);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    for actor in [call, store] {
        process::wait_for("it goes on", || actor.outcome() == Outcome::Made);
    }
}

/// As strace does: it passes on what its tracee gets, and lets it stop when it is to stop. Or not: `careless`, as debuggers are.
fn trace(pid: u32, careless: bool, ready: &AtomicBool, over: &AtomicBool) {
    let pid = pid.cast_signed();
    let nothing = std::ptr::null_mut::<libc::c_void>();
    let mut status = 0;
    // SAFETY: these requests pass numbers only.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, pid, nothing, 0), 0);
        ready.store(true, Ordering::SeqCst);
        while !over.load(Ordering::SeqCst) {
            if libc::waitpid(pid, &raw mut status, libc::__WALL | libc::WNOHANG) != pid {
                thread::sleep(Duration::from_millis(1));
            } else if !libc::WIFSTOPPED(status) {
                return;
            } else if status >> 16 == libc::PTRACE_EVENT_STOP {
                // Its process is stopped, or is not any more.
                let is_over = libc::WSTOPSIG(status) == libc::SIGTRAP;
                let request = if is_over || careless {
                    libc::PTRACE_CONT
                } else {
                    libc::PTRACE_LISTEN
                };
                libc::ptrace(request, pid, nothing, 0);
            } else {
                let signal = libc::c_long::from(libc::WSTOPSIG(status));
                libc::ptrace(libc::PTRACE_CONT, pid, nothing, signal);
            }
        }
    }
}

fn who_is_traced_by_others_is_held_all_the_same(place: &Place) {
    let mut call = actor(place, "pwrite");
    let mut store = actor(place, "store through an old mapping");
    let (ready, over) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut tracers = Vec::new();
    for actor in [&call, &store] {
        let (pid, ready, over) = (actor.pid(), Arc::clone(&ready), Arc::clone(&over));
        let began = Arc::clone(&ready);
        tracers.push(thread::spawn(move || trace(pid, false, &ready, &over)));
        process::wait_for("it is traced", || began.swap(false, Ordering::SeqCst));
    }
    let freeze = freeze(&[&call, &store], &[]);
    for actor in [&mut call, &mut store] {
        actor.look();
        assert_eq!(outcome(actor), Outcome::Held);
        thread::sleep(WHILE);
        assert_eq!(actor.outcome(), Outcome::Held);
        assert_eq!(actor.look(), [false]);
    }
    terminate(freeze).expect(0);
    for actor in [&call, &store] {
        process::wait_for("it goes on", || actor.outcome() == Outcome::Made);
    }
    over.store(true, Ordering::SeqCst);
    for tracer in tracers {
        tracer.join().expect("a tracer");
    }
}

/// Whoever is traced by others has to be stopped by a signal, which su sees, and stops itself until somebody continues both.
fn a_parent_that_stops_itself_goes_on_after_the_thaw(place: &Place) {
    let path = clean(place, "data");
    let number = place.file("writer");
    let own = std::env::current_exe().expect("this program");
    let mut parent = Command::new(own)
        .arg("stop-like-su")
        .args([&path, &number])
        .spawn()
        .expect("this program");
    let mut writer = None;
    process::wait_for("there is a writer", || {
        writer = fs::read_to_string(&number)
            .ok()
            .and_then(|it| it.parse().ok());
        writer.is_some()
    });
    let writer: u32 = writer.expect("a process id");
    let (ready, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let freeze = frozen(&path);
    thread::scope(|scope| {
        scope.spawn(|| trace(writer, false, &ready, &over));
        process::wait_for("it is traced", || ready.load(Ordering::SeqCst));
        fs::remove_file(&number).expect("unlink");
        process::wait_for("its parent has stopped", || {
            process::is_stopped(parent.id())
        });
        terminate(freeze).expect(0);
        let status = process::wait(&mut parent);
        over.store(true, Ordering::SeqCst);
        assert!(status.success(), "{status}");
    });
}

/// `stop-like-su FILE WRITER`: its child, whose number is in WRITER, writes to FILE when WRITER is removed.
pub(crate) fn stop_like_su(path: &Path, number: &Path) {
    // SAFETY: there is one thread, and so in the child.
    unsafe {
        let writer = libc::fork();
        if writer == 0 {
            let own = libc::getpid().to_string();
            // Nobody reads a part of it.
            let new = number.with_extension("new");
            let named = fs::write(&new, own).and_then(|()| fs::rename(&new, number));
            while named.is_ok() && number.exists() {
                thread::sleep(WHILE / 50);
            }
            libc::_exit(fs::write(path, "written").is_err().into());
        }
        loop {
            let mut status = 0;
            assert_eq!(
                libc::waitpid(writer, &raw mut status, libc::WUNTRACED),
                writer
            );
            if !libc::WIFSTOPPED(status) {
                assert_eq!(status, 0, "the writer");
                return;
            }
            libc::kill(libc::getpid(), libc::SIGSTOP);
            libc::kill(writer, libc::SIGCONT);
        }
    }
}

/// He has come when it was too late to stop it beforehand.
fn a_store_that_a_tracer_lets_through_is_told(place: &Place) {
    let mut store = actor(place, "store through an old mapping");
    let pid = store.pid();
    let freeze = freeze(&[&store], &["--mmap", "hold"]);
    let (ready, over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| trace(pid, true, &ready, &over));
        process::wait_for("it is traced", || ready.load(Ordering::SeqCst));
        store.order();
        process::wait_for("it stores", || store.outcome() == Outcome::Made);
        over.store(true, Ordering::SeqCst);
    });
    let ended = terminate(freeze).expect(17);
    let told = records(&ended, "violated");
    assert!(told.iter().any(|line| line["pid"] == pid), "{ended:?}");
}

fn a_sibling_cannot_send_the_bytes_elsewhere(place: &Place) {
    for how in ["thread", "process", "last"] {
        as_a_rule(|| keeps_its_bytes(place, how));
    }
}

/// The threads of a process.
fn threads(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    let ids = entries.into_iter().flatten().flatten();
    ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn keeps_its_bytes(place: &Place, how: &str) -> bool {
    let (path, other) = (clean(place, "data"), clean(place, "other"));
    let before = fs::read(&other).expect("read");
    let freeze = frozen(&path);
    let own = std::env::current_exe().expect("this program");
    let mut child = Command::new(own)
        .args(["write-beside", how])
        .args([&path, &other])
        .spawn()
        .expect("this program");
    process::wait_for("it is held", || {
        threads(child.id()).into_iter().any(process::is_stopped)
    });
    thread::sleep(2 * WHILE);
    terminate(freeze).expect(0);
    assert!(process::wait(&mut child).success(), "{how}");
    let [other, written] = [&other, &path].map(|file| fs::read(file).expect("read"));
    other == before && written.starts_with(b"written")
}

/// `write-beside HOW FILE OTHER`: writes to a descriptor, while a sibling, a thread or a process that has the same
/// descriptors, makes it that of another file half a second later. `last`: such a process, and the first thread ends.
pub(crate) fn write_beside(how: &str, path: &Path, other: &Path) {
    let open = |path: &Path| File::options().write(true).open(path).expect("open");
    let (file, other) = (open(path), open(other));
    let numbers = (file.as_raw_fd(), other.as_raw_fd());
    extern "C" fn exchange(numbers: *mut libc::c_void) -> libc::c_int {
        // SAFETY: two numbers, which live as long as this process.
        let (file, other) = unsafe { *numbers.cast::<(i32, i32)>() };
        thread::sleep(WHILE / 2);
        // SAFETY: both are open.
        unsafe { libc::dup2(other, file) };
        0
    }
    let numbers = Box::leak(Box::new(numbers));
    if how == "thread" {
        let numbers: &'static (i32, i32) = numbers;
        thread::spawn(move || exchange(std::ptr::from_ref(numbers).cast_mut().cast()));
    } else {
        let stack = Box::leak(vec![0u128; 1 << 14].into_boxed_slice());
        let flags = libc::CLONE_FILES | libc::SIGCHLD;
        // SAFETY: the child has a stack of its own.
        let child = unsafe {
            let top = stack.as_mut_ptr().add(1 << 14).cast();
            libc::clone(exchange, top, flags, std::ptr::from_mut(numbers).cast())
        };
        assert!(child > 0, "{}", std::io::Error::last_os_error());
    }
    let write = move || {
        rustix::io::pwrite(&file, b"written", 0).expect("pwrite");
        std::process::exit(0);
    };
    if how != "last" {
        write();
    }
    thread::spawn(write);
    // SAFETY: ends this thread, which owns nothing that another one needs.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}
