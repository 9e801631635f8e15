//! Whoever has the memory of a process can store to a page that a fault of that has made writable. Whoever looks into it cannot.

use std::{
    fs,
    io::{Read, Write},
    thread::{self, JoinHandle},
};

use super::{
    actor::Outcome,
    nowhere::Nowhere,
    policies::{actor, freeze, outcome, records, terminate},
    premod::Freeze,
    process,
    users::{Storer, clean, own},
};
use crate::{harness::Place, tests};

tests! {
    Alone processes_that_share_memory_are_stopped_beforehand,
    Alone a_store_beside_a_process_that_has_the_memory_since_the_freeze_is_told on Every,
    Alone whoever_looks_into_a_process_violates_nothing on Every,
    Alone whoever_waits_for_a_held_child_stands_still_as_well on Every,
    Alone a_process_whose_core_is_being_written_is_not_waited_for on Every,
}

fn processes_that_share_memory_are_stopped_beforehand(place: &Place) {
    let path = clean(place, "data");
    Storer::start(&own(), "process", &[&path]).must_not_store(&path);
}

/// Nobody could know of it before.
fn a_store_beside_a_process_that_has_the_memory_since_the_freeze_is_told(place: &Place) {
    let path = clean(place, "data");
    let mut storer = Storer::start(&own(), "late company", &[&path]);
    let name = path.to_str().expect("a plain path");
    let mut freeze = Freeze::start(&[name, "--mmap", "hold"]);
    freeze.frozen();
    let mut stdin = storer.child.stdin.take().expect("stdin is a pipe");
    stdin.write_all(b"company").expect("it listens");
    let children = format!("/proc/{0}/task/{0}/children", storer.child.id());
    process::wait_for("it has company", || {
        fs::read_to_string(&children).is_ok_and(|children| !children.is_empty())
    });
    drop(stdin);
    process::wait_for("it is held", || process::is_stopped(storer.child.id()));
    let ended = terminate(freeze).expect(17);
    assert!(!records(&ended, "violated").is_empty(), "{ended:?}");
    assert!(process::wait(&mut storer.child).success());
}

/// In vfork nobody can be interrupted; nor need he be.
fn whoever_waits_for_a_held_child_stands_still_as_well(place: &Place) {
    let path = clean(place, "data");
    Storer::start(&own(), "vfork", &[&path]).must_not_store(&path);
}

/// It will not return to user mode, and the core that somebody waits for must not be cut off.
fn a_process_whose_core_is_being_written_is_not_waited_for(place: &Place) {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    let path = clean(place, "data");
    let pattern = fs::read_to_string(PATTERN).expect(PATTERN);
    // More than a pipe takes.
    fs::write(PATTERN, "|/usr/bin/busybox sleep 20").expect(PATTERN);
    let mut storer = Storer::start(&own(), "crash", &[&path]);
    drop(storer.child.stdin.take());
    let status = format!("/proc/{}/status", storer.child.id());
    let dumps = || fs::read_to_string(&status).is_ok_and(|text| text.contains("CoreDumping:\t1"));
    process::wait_for("its core is being written", dumps);
    let mut freeze = Freeze::start(&[path.to_str().expect("a plain path")]);
    let frozen = freeze.seek(|line| line["state"] == "frozen");
    let dumps = dumps();
    fs::write(PATTERN, pattern.trim_end()).expect(PATTERN);
    assert!(frozen.is_some(), "{:?}", freeze.end());
    assert!(dumps, "its core was cut off");
    terminate(freeze).expect(0);
}

/// Looking takes hold of the memory, as having it does; everybody may who reads its command line in `/proc`.
fn whoever_looks_into_a_process_violates_nothing(place: &Place) {
    for policy in ["hold", "kill"] {
        let mut store = actor(place, "store through an old mapping");
        store.look();
        let freeze = freeze(&[&store], &["--mmap", policy]);
        let looking = Looking::into(store.pid());
        let outcome = outcome(&mut store);
        looking.end();
        match policy {
            "hold" => assert_eq!(outcome, Outcome::Held),
            _ => assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}"),
        }
        assert_eq!(store.look(), [false], "{policy}: it was stored");
        let ended = terminate(freeze).expect(0);
        assert!(records(&ended, "violated").is_empty(), "{ended:?}");
    }
}

/// Somebody in the middle of reading another process's memory.
struct Looking {
    page: Nowhere,
    looks: JoinHandle<isize>,
}

impl Looking {
    fn into(pid: u32) -> Self {
        let page = Nowhere::new();
        let to = page.address();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
        let start = maps.split('-').next().expect("an address");
        let from = usize::from_str_radix(start, 16).expect("an address");
        let (sender, thread) = std::sync::mpsc::channel();
        let looks = thread::spawn(move || {
            let own = rustix::thread::gettid().as_raw_nonzero();
            sender.send(own).expect("it is waited for");
            let part = |start: usize| libc::iovec {
                iov_base: start as *mut libc::c_void,
                iov_len: 1,
            };
            let (local, remote) = (part(to), part(from));
            // SAFETY: one byte to a page that is ours and that nobody has a reference to.
            unsafe { libc::process_vm_readv(pid.cast_signed(), &local, 1, &remote, 1, 0) }
        });
        let thread = thread.recv().expect("its number");
        let call = format!("/proc/self/task/{thread}/syscall");
        let number = format!("{} ", libc::SYS_process_vm_readv);
        process::wait_for("it sleeps while it looks", || {
            fs::read_to_string(&call).is_ok_and(|call| call.starts_with(&number))
        });
        Self { page, looks }
    }

    fn end(self) {
        assert!(!self.looks.is_finished(), "it has looked only");
        self.page.come();
        assert_eq!(self.looks.join().expect("no panic"), 1, "bytes were read");
    }
}

/// Runs it in a process that shares this one's memory, and waits for that.
pub(super) fn beside_in_a_process(mut store: impl FnMut()) {
    let mut stack = Stack::new();
    let child = clone(&mut store, &mut stack, 0);
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the other process");
}

/// Runs it beside a process that shares this one's memory and waits for its end, which is made at the first input.
pub(super) fn with_late_company(mut store: impl FnMut()) {
    println!("ready");
    let mut told = [0; 7];
    std::io::stdin().read_exact(&mut told).expect("a word");
    let mut stack = Stack::new();
    // It calls the kernel directly: what the C library keeps for a thread belongs to the other.
    let mut wait = || unsafe {
        // SAFETY: no memory is passed.
        libc::syscall(libc::SYS_pause);
    };
    let child = clone(&mut wait, &mut stack, 0);
    store();
    // SAFETY: our own child.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        assert_eq!(libc::waitpid(child, std::ptr::null_mut(), 0), child);
    }
}

/// Runs it when a process that shares this one's memory has ended, which it does at the end of stdin. Until then this one is in
/// vfork.
pub(super) fn after_vfork(mut store: impl FnMut()) {
    let mut stack = Stack::new();
    let mut byte = 0u8;
    let ready = b"ready\n";
    let mut wait = || unsafe {
        // SAFETY: bytes that live until the other process has ended.
        libc::syscall(libc::SYS_write, 1, ready.as_ptr(), ready.len());
        while libc::syscall(libc::SYS_read, 0, &raw mut byte, 1) > 0 {}
    };
    let child = clone(&mut wait, &mut stack, libc::CLONE_VFORK);
    // SAFETY: our own child.
    let waited = unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    assert_eq!(waited, child);
    store();
}

/// What the other process calls with.
struct Stack(Vec<u128>);

impl Stack {
    fn new() -> Self {
        const SIZE: usize = 1 << 18;
        Self(vec![0; SIZE / 16])
    }
}

/// Makes a process that shares this one's memory, and runs it there. Whoever calls waits for its end before either is dropped.
fn clone<F: FnMut()>(run: &mut F, stack: &mut Stack, more: libc::c_int) -> libc::pid_t {
    extern "C" fn start<F: FnMut()>(run: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the closure that was passed below, whose owner waits.
        unsafe { (*run.cast::<F>())() };
        0
    }
    let flags = libc::CLONE_VM | libc::SIGCHLD | more;
    let top = stack.0.as_mut_ptr_range().end;
    // SAFETY: the stack and the closure live until the child has ended.
    let child = unsafe { libc::clone(start::<F>, top.cast(), flags, (&raw mut *run).cast()) };
    assert!(child > 0, "{}", std::io::Error::last_os_error());
    child
}
