//! What /proc says of processes that are known to use the files: where their threads are, whether they live, whether
//! they have stopped.
//!
//! Whatever a process has given itself for a name is taken as bytes. Only files are read for which the kernel waits for
//! nobody.

use std::{fs, str};

use bytes::Bytes;

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// It does not exist any more.
    Gone,
    /// It cannot be in the middle of a modification.
    Outside,
    /// It may be in the middle of one, asleep.
    Inside,
    /// It runs, or could: nobody knows where.
    Running,
}

/// A clock tick of /proc in nanoseconds: `USER_HZ` is 100 on every architecture that premod knows.
pub(crate) const TICK: u64 = 10_000_000;

/// Calls that can sleep in the middle of a modification for as long as a pipe or a socket gives no data.
const SLOW_CALLS: [i64; 3] = [
    libc::SYS_splice,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
];

/// `PF_EXITING` of include/linux/sched.h, the same since 2.6: the task is ending.
const PF_EXITING: u64 = 0x4;

/// What `stat` says of a process or thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    flags: u64,
    /// When it began, in clock ticks since boot.
    began: u64,
}

impl Stat {
    fn of_process(pid: u32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn of_thread(pid: u32, thread: u32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/task/{thread}/stat")).ok()?)
    }

    /// The second field is the name in parentheses, which may have any bytes in it.
    fn parse(text: &[u8]) -> Option<Self> {
        let name_ends = text.iter().rposition(|&byte| byte == b')')?;
        let mut fields = text[name_ends + 1..]
            .split(u8::is_ascii_whitespace)
            .filter(|field| !field.is_empty());
        let state = *fields.next()?.first()?;
        // The flags are field 9, the beginning is field 22; the state was field 3.
        let flags = number(fields.nth(5)?)?;
        let began = number(fields.nth(12)?)?;
        Some(Self {
            state,
            flags,
            began,
        })
    }

    fn is_ending(self) -> bool {
        self.flags & PF_EXITING != 0
    }

    fn is_stopped_or_over(self) -> bool {
        matches!(self.state, b'T' | b't' | b'Z' | b'X')
    }
}

fn number<T: str::FromStr>(field: &[u8]) -> Option<T> {
    str::from_utf8(field).ok()?.parse().ok()
}

/// Where a thread is now. Modifications sleep uninterruptibly, but for those of [`SLOW_CALLS`].
pub(crate) fn whereabouts(pid: u32, thread: u32) -> Whereabouts {
    let Some(stat) = Stat::of_thread(pid, thread) else {
        return Whereabouts::Gone;
    };
    match stat.state {
        b'Z' | b'X' => Whereabouts::Gone,
        // A task stops on its way out of the kernel.
        b'T' | b't' => Whereabouts::Outside,
        b'D' if waits_for_child(pid, thread) || is_dumping_core(pid) => Whereabouts::Outside,
        // One that waits for its memory may be asked for its state, and not for its call.
        b'D' => Whereabouts::Inside,
        b'S' | b'I' => match fs::read(format!("/proc/{pid}/task/{thread}/syscall")) {
            Ok(call) => asleep_in(&call),
            Err(_) => Whereabouts::Gone,
        },
        _ => Whereabouts::Running,
    }
}

/// Where a thread is that sleeps in this system call: its number comes first, or the word `running`.
fn asleep_in(call: &[u8]) -> Whereabouts {
    let first = call.split(u8::is_ascii_whitespace).next();
    match first.and_then(number::<i64>) {
        Some(call) if SLOW_CALLS.contains(&call) => Whereabouts::Inside,
        _ => Whereabouts::Outside,
    }
}

/// The threads of a process.
pub(crate) fn threads(pid: u32) -> Vec<u32> {
    numbers(&format!("/proc/{pid}/task"))
}

/// Whether a thread has ended: nobody can seize it any more.
pub(crate) fn has_ended(pid: u32, thread: u32) -> bool {
    Stat::of_thread(pid, thread).is_none_or(|stat| matches!(stat.state, b'Z' | b'X'))
}

/// Whether a thread sleeps until a child that has its memory executes a program or ends (vfork): it does not return to user
/// mode before, and cannot be interrupted.
pub(crate) fn waits_for_child(pid: u32, thread: u32) -> bool {
    /// Where it sleeps then; compilers put the second one into the first.
    const PLACES: [&[u8]; 2] = [b"kernel_clone", b"wait_for_vfork_done"];
    let place = || fs::read(format!("/proc/{pid}/task/{thread}/wchan")).unwrap_or_default();
    Stat::of_thread(pid, thread).is_some_and(|stat| stat.state == b'D')
        && PLACES.contains(&place().as_slice())
}

/// Whether the kernel writes the core of a process that dies: nobody of it returns to user mode. To interrupt it would cut
/// the core off.
pub(crate) fn is_dumping_core(pid: u32) -> bool {
    number_in_status(pid, b"CoreDumping:") == Some(1)
}

/// The process that a thread is of.
pub(crate) fn process_of(thread: u32) -> Option<u32> {
    number_in_status(thread, b"Tgid:")
}

/// The process that waits for a process; 0 if nobody does here.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    number_in_status(pid, b"PPid:")
}

/// The thread that traces a thread; 0 if nobody does.
pub(crate) fn tracer_of(thread: u32) -> Option<u32> {
    number_in_status(thread, b"TracerPid:")
}

fn number_in_status(thread: u32, name: &[u8]) -> Option<u32> {
    let text = fs::read(format!("/proc/{thread}/status")).ok()?;
    status(&text, name).and_then(number)
}

/// A field of /proc's `status`, whose lines have their names first.
pub(crate) fn status<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut lines = text.split(|&byte| byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(name))?;
    Some(value.trim_ascii())
}

/// Name of a process's first thread; empty if there is none.
pub(crate) fn comm(pid: u32) -> Bytes {
    let mut comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    if comm.last() == Some(&b'\n') {
        comm.pop();
    }
    comm.into()
}

/// When a process began, in clock ticks since boot; `None` if there is none, or if it is ending.
///
/// Its first thread may have ended long before the others.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let first = Stat::of_process(pid)?;
    let lives = |thread| Stat::of_thread(pid, thread).is_some_and(|stat| !stat.is_ending());
    (!first.is_ending() || threads(pid).into_iter().any(lives)).then_some(first.began)
}

/// Whether every thread of a process is stopped.
pub(crate) fn is_stopped(pid: u32) -> bool {
    every_thread(pid, |_, stat| stat.is_stopped_or_over())
}

/// Whether a process is stopped by a signal, and not because somebody traces it.
pub(crate) fn is_stopped_by_signal(pid: u32) -> bool {
    every_thread(pid, |_, stat| matches!(stat.state, b'T' | b'Z' | b'X'))
}

/// `KCMP_VM` and `KCMP_FILES` of linux/kcmp.h: what two processes can have in common.
const COMMON: [libc::c_int; 2] = [1, 2];

/// Whether the kernel says that two threads have this in common. Of two that have ended it says so, too: they have nothing.
fn have_in_common(one: u32, other: u32, kind: libc::c_int) -> bool {
    // SAFETY: the call takes numbers.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, kind, 0, 0) == 0 }
}

/// Whether [`companions`] can be found: kernels can be built without kcmp(2), and sandboxes forbid it.
pub(crate) fn can_be_compared() -> bool {
    let own = std::process::id();
    COMMON.iter().all(|&kind| have_in_common(own, own, kind))
}

/// The other processes that have the descriptors or the memory of this thread.
///
/// A first thread that has ended has neither any more, though others of its process may.
pub(crate) fn companions(pid: u32, thread: u32) -> Vec<u32> {
    let has = |other: u32| (COMMON.iter()).any(|&kind| have_in_common(thread, other, kind));
    let shares = |other: &u32| {
        has(*other) || has_ended(*other, *other) && threads(*other).into_iter().any(has)
    };
    let own = std::process::id();
    let found: Vec<u32> = numbers("/proc")
        .into_iter()
        .filter(|other| ![1, own, pid].contains(other))
        .filter(shares)
        .collect();
    // Whoever has ended meanwhile has as little as every thread of the kernel, and nobody shares it.
    match Stat::of_thread(pid, thread) {
        Some(stat) if !stat.is_ending() => found,
        _ => Vec::new(),
    }
}

/// The numbers among the names in a directory.
fn numbers(directory: &str) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Whether no thread of a process that was sent SIGSTOP runs in user mode before SIGCONT: all have stopped, or are
/// paused by their control group, and will stop when they are not any more.
pub(crate) fn stands_still(pid: u32) -> bool {
    every_thread(pid, |thread, stat| {
        stat.is_stopped_or_over() || is_paused(pid, thread)
    })
}

fn every_thread(pid: u32, holds: impl Fn(u32, Stat) -> bool) -> bool {
    let threads = threads(pid);
    !threads.is_empty()
        && threads.iter().all(|&thread| {
            // A thread that has ended meanwhile is no obstacle.
            Stat::of_thread(pid, thread).is_none_or(|stat| holds(thread, stat))
        })
}

/// Whether a thread is in a control group (of the second version) that the kernel reports as frozen. A thread is so on
/// its way to user mode, where it looks for signals when it goes on.
fn is_paused(pid: u32, thread: u32) -> bool {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};
    let groups = fs::read(format!("/proc/{pid}/task/{thread}/cgroup")).unwrap_or_default();
    let mut lines = groups.split(|&byte| byte == b'\n');
    let Some(group) = lines.find_map(|line| line.strip_prefix(b"0::/")) else {
        return false;
    };
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .any(|root| {
            let events = Path::new(root).join(OsStr::from_bytes(group));
            let events = fs::read(events.join("cgroup.events")).unwrap_or_default();
            events
                .split(|&byte| byte == b'\n')
                .any(|line| line == b"frozen 1")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_any_bytes_in_it() {
        let rest = b" S 1 2 3 4 5 64 7 8 9 10 11 12 13 14 15 16 17 18 777 20\n";
        let text = [&b"7 (a) Z \xff\n)"[..], rest].concat();
        let stat = Stat::parse(&text).unwrap();
        assert_eq!(
            (stat.state, stat.flags, stat.began),
            (b'S', 64, 777),
            "{stat:?}"
        );
        assert_eq!(Stat::parse(b"7 (a) S 1"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn calls_that_wait_for_data_may_be_in_the_middle_of_a_modification() {
        let splice = format!("{} 0x3 0x0 0x7ffc 0x7f\n", libc::SYS_splice);
        assert_eq!(asleep_in(splice.as_bytes()), Whereabouts::Inside);
        assert_eq!(asleep_in(b"0 0x3 0x0\n"), Whereabouts::Outside);
        assert_eq!(asleep_in(b"running\n"), Whereabouts::Outside);
    }

    #[test]
    fn this_process_is_found_running_and_others_gone() {
        let own = std::process::id();
        assert!(started(own).is_some());
        assert!(threads(own).contains(&own));
        assert!(!comm(own).is_empty());
        assert!(!is_stopped(own) && !stands_still(own));
        let none = u32::MAX >> 1;
        assert_eq!(whereabouts(none, 1), Whereabouts::Gone);
        assert_eq!(started(none), None);
    }
}
