//! Who uses the files: processes that have them open for writing, or mapped so that they can store.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use procfs::process::{MMPermissions, Process, Syscall, all_processes};

use super::target::Target;

/// How a process uses a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// It has the file open for writing.
    pub open: bool,
    /// It has the file mapped, shared and writable.
    pub mapped: bool,
}

/// A process that uses one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Process id.
    pub pid: u32,
    /// When it began, in clock ticks since boot.
    pub started: u64,
    /// Name of its main thread.
    pub comm: String,
    /// How many threads it has.
    pub threads: usize,
    /// How it uses which of the files, by their number among the targets.
    pub files: Vec<(usize, Access)>,
}

impl User {
    /// Whether it has any of the files mapped.
    #[must_use]
    pub fn maps(&self) -> bool {
        self.files.iter().any(|(_, access)| access.mapped)
    }
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) open: bool,
    pub(crate) mapped: bool,
}

/// Every process, but this one, that uses one of the targets.
pub(crate) fn users(targets: &[Target], wanted: Wanted) -> Vec<User> {
    let own = std::process::id();
    let processes = all_processes().into_iter().flatten().flatten();
    processes
        // Processes come and go; one that is gone uses nothing.
        .filter_map(|process| {
            let pid = u32::try_from(process.pid()).ok()?;
            if pid == own {
                return None;
            }
            // Once for each process and not for each file: both tables may be long.
            let open = if wanted.open {
                open(pid, targets)
            } else {
                Vec::new()
            };
            let mapped = if wanted.mapped {
                mapped(&process, targets)
            } else {
                Vec::new()
            };
            let files: Vec<_> = (0..targets.len())
                .map(|number| {
                    let access = Access {
                        open: open.contains(&number),
                        mapped: mapped.contains(&number),
                    };
                    (number, access)
                })
                .filter(|(_, access)| *access != Access::default())
                .collect();
            if files.is_empty() {
                return None;
            }
            let stat = process.stat().ok()?;
            Some(User {
                pid,
                started: stat.starttime,
                comm: stat.comm,
                threads: usize::try_from(stat.num_threads).unwrap_or(1),
                files,
            })
        })
        .collect()
}

/// The targets, by their numbers, that a process has open for writing.
///
/// The number of the inode is compared first: a look at the file itself could wait for a server that is gone.
fn open(pid: u32, targets: &[Target]) -> Vec<usize> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let mut found = Vec::new();
    for entry in entries.into_iter().flatten().flatten() {
        let Ok(info) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let path = Path::new(&format!("/proc/{pid}/fd")).join(entry.file_name());
        let same = |target: &Target| is_open_for_writing(&info, target.id.1) && is(&path, target);
        found.extend(targets.iter().position(same));
    }
    found
}

/// Whether a descriptor's `fdinfo` tells of this inode number and a way to write.
fn is_open_for_writing(info: &str, inode: u64) -> bool {
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim())
    };
    let flags = field("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok());
    let number: Option<u64> = field("ino:").and_then(|number| number.parse().ok());
    number == Some(inode)
        && flags.is_some_and(|flags| flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32)
}

/// The targets, by their numbers, that a process has mapped, shared and writable.
fn mapped(process: &Process, targets: &[Target]) -> Vec<usize> {
    let Ok(maps) = process.maps() else {
        return Vec::new();
    };
    let storable = MMPermissions::WRITE | MMPermissions::SHARED;
    let mut found = Vec::new();
    for map in maps.iter().filter(|map| map.perms.contains(storable)) {
        let (begin, end) = map.address;
        let path = format!("/proc/{}/map_files/{begin:x}-{end:x}", process.pid());
        let same = |target: &Target| map.inode == target.id.1 && is(Path::new(&path), target);
        found.extend(targets.iter().position(same));
    }
    found
}

fn is(path: &Path, target: &Target) -> bool {
    fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == target.id)
}

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

/// Calls that can sleep in the middle of a modification for as long as a pipe or a socket gives no data.
const SLOW_CALLS: [i64; 3] = [
    libc::SYS_splice,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
];

/// Where a thread is now. Modifications sleep uninterruptibly, but for those of [`SLOW_CALLS`].
pub(crate) fn whereabouts(pid: u32, thread: u32) -> Whereabouts {
    let task = Process::new(pid as i32).and_then(|process| process.task_from_tid(thread as i32));
    let Ok(task) = task else {
        return Whereabouts::Gone;
    };
    let (Ok(call), Ok(stat)) = (task.syscall(), task.stat()) else {
        return Whereabouts::Gone;
    };
    match (call, stat.state) {
        (_, 'Z' | 'X') => Whereabouts::Gone,
        // A task stops on its way out of the kernel.
        (_, 'T' | 't') => Whereabouts::Outside,
        (_, 'D') => Whereabouts::Inside,
        (Syscall::Blocked { syscall_number, .. }, _) if SLOW_CALLS.contains(&syscall_number) => {
            Whereabouts::Inside
        }
        (_, 'S' | 'I') => Whereabouts::Outside,
        _ => Whereabouts::Running,
    }
}

/// The threads of a process.
pub(crate) fn threads(pid: u32) -> Vec<u32> {
    let tasks = Process::new(pid as i32).and_then(|process| process.tasks());
    let tasks = tasks.into_iter().flatten().flatten();
    tasks.filter_map(|task| task.tid.try_into().ok()).collect()
}

/// `PF_EXITING` of include/linux/sched.h, the same since 2.6: the task is ending.
const PF_EXITING: u32 = 0x4;

/// When a process began, in clock ticks since boot; `None` if there is none, or if it is ending.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let stat = Process::new(pid as i32).ok()?.stat().ok()?;
    (stat.flags & PF_EXITING == 0).then_some(stat.starttime)
}

/// Whether every thread of a process is stopped.
pub(crate) fn is_stopped(pid: u32) -> bool {
    let threads = threads(pid);
    !threads.is_empty()
        && threads.iter().all(|&thread| {
            let task =
                Process::new(pid as i32).and_then(|process| process.task_from_tid(thread as i32));
            // A thread that has ended meanwhile is no obstacle.
            task.and_then(|task| task.stat())
                .map_or(true, |stat| matches!(stat.state, 'T' | 't' | 'Z' | 'X'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_told_from_readers() {
        let info = |flags| format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t29\nino:\t131\n");
        assert!(is_open_for_writing(&info("0100002"), 131));
        assert!(is_open_for_writing(&info("0100001"), 131));
        assert!(!is_open_for_writing(&info("0100000"), 131));
        assert!(!is_open_for_writing(&info("0100002"), 132));
        assert!(!is_open_for_writing("", 0));
    }

    #[test]
    fn this_process_is_found_running_and_others_gone() {
        let own = std::process::id();
        assert!(started(own).is_some());
        assert!(threads(own).contains(&own));
        assert!(!is_stopped(own));
        assert_eq!(whereabouts(u32::MAX >> 1, 1), Whereabouts::Gone);
    }
}
