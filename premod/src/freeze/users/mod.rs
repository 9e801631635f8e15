//! Who uses the files: processes that have them open for writing, or mapped so that they can store.
//!
//! The kernel is asked, by inode (`premod-ebpf/src/freeze/users.rs`): through overlayfs the same file is another one for
//! whoever looks at it by name.

mod fate;
mod rings;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, Read},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use premod_common::guard::{Use, UseKind};
use tokio::{
    sync::oneshot,
    time::{Instant as TokioInstant, timeout_at},
};

pub use self::fate::Fate;
use self::rings::has_ring;
use crate::{
    error::Error,
    freeze::{
        guards::Guards,
        hold::processes::{comm, tracer_of},
    },
};

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
    /// When it began, in nanoseconds since boot.
    pub started: u64,
    /// Name of its main thread.
    pub comm: Bytes,
    /// How many threads it has.
    pub threads: usize,
    /// Another process that is found has the same memory.
    pub shares_memory: bool,
    /// How it uses which of the files, by their number among the targets.
    pub files: Vec<(usize, Access)>,
}

impl User {
    /// Whether it has any of the files mapped.
    #[must_use]
    pub fn maps(&self) -> bool {
        self.files.iter().any(|(_, access)| access.mapped)
    }

    /// Whether it may write by `io_uring`.
    #[must_use]
    pub fn has_ring(&self) -> bool {
        has_ring(self.pid)
    }

    /// Its name for a sentence.
    pub(crate) fn name(&self) -> String {
        String::from_utf8_lossy(&self.comm).into_owned()
    }

    /// Whether it cannot be relied on that it is stopped at a store: others may store to the same page, or whoever traces it
    /// decides whether it stops.
    #[must_use]
    pub fn evades_a_stop(&self) -> bool {
        self.has_company() || tracer_of(self.pid).is_some_and(|tracer| tracer != 0)
    }

    /// Whether others can store to a page that a fault of one of its threads has made writable.
    #[must_use]
    pub fn has_company(&self) -> bool {
        self.threads > 1 || self.shares_memory
    }
}

/// Longest wait for the kernel to go through all mappings: whoever holds the lock of his own memory, because he waits for
/// a server that is gone, keeps it from that.
const PATIENCE: Duration = Duration::from_secs(10);

/// What keeps the users from being known.
#[derive(Debug)]
pub(crate) enum Unknown {
    /// A sentence for the user, after "cannot freeze the files".
    Why(String),
    /// The kernel does not do it.
    Failed(Error),
}

impl From<Error> for Unknown {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Every process, but this one, that uses one of the guarded inodes, in the order of the process ids.
pub(crate) async fn users(
    guards: &mut Guards,
    inodes: &[u64],
    kinds: &[UseKind],
    deadline: Instant,
) -> Result<Vec<User>, Unknown> {
    let deadline = deadline.min(Instant::now() + PATIENCE);
    let mut found = Vec::new();
    for &kind in kinds {
        let listing = guards.list_uses(kind)?;
        found.extend(heard(listing, deadline).await?);
    }
    for memory in shared(&found) {
        guards.note_shared(memory)?;
    }
    found.retain(|found| found.pid != std::process::id());
    if let Some(stacked) = found
        .iter()
        .find(|found| found.kind == UseKind::Stacked as u32)
    {
        let name = String::from_utf8_lossy(&comm(stacked.pid)).into_owned();
        return Err(Unknown::Why(format!(
            "process {} ({name}) has a file of overlayfs open for writing, and this kernel does not tell which one is behind it (/sys/kernel/btf/overlay is missing)",
            stacked.pid
        )));
    }
    Ok(gather(&found, inodes))
}

/// Reads a listing to its end, in a thread of its own: the kernel may have to wait for somebody.
async fn heard(
    mut listing: impl Read + Send + 'static,
    deadline: Instant,
) -> Result<Vec<Use>, Unknown> {
    let (sender, receiver) = oneshot::channel();
    // Nobody waits for it at premod's end, which ends its wait, too.
    let reader = thread::Builder::new().spawn(move || {
        let mut bytes = Vec::new();
        let read = listing.read_to_end(&mut bytes).map(|_| bytes);
        let _ = sender.send(read);
    });
    let failed = |error| Error::kernel("cannot ask the kernel who uses the files", &error);
    reader.map_err(failed)?;
    let bytes = match timeout_at(TokioInstant::from_std(deadline), receiver).await {
        Ok(Ok(Ok(bytes))) => bytes,
        Ok(read) => {
            let error = match read {
                Ok(Err(error)) => error,
                _ => io::ErrorKind::UnexpectedEof.into(),
            };
            return Err(failed(error).into());
        }
        Err(_) => {
            return Err(Unknown::Why(
                "it cannot be told who has them mapped: the kernel waits for the memory of some process, which waits for something itself (look for processes in state D)"
                    .to_owned(),
            ));
        }
    };
    Ok(bytes.chunks(Use::SIZE).filter_map(Use::decode).collect())
}

/// The memories that several processes have.
fn shared(uses: &[Use]) -> HashSet<u64> {
    let mut of_memory: HashMap<u64, HashSet<u32>> = HashMap::new();
    // A task without memory is ending.
    for found in uses.iter().filter(|found| found.memory != 0) {
        of_memory.entry(found.memory).or_default().insert(found.pid);
    }
    of_memory.retain(|_, processes| processes.len() > 1);
    of_memory.into_keys().collect()
}

/// The processes behind the uses.
fn gather(uses: &[Use], inodes: &[u64]) -> Vec<User> {
    let numbers: HashMap<u64, usize> = inodes.iter().copied().zip(0..).collect();
    let shared = shared(uses);
    let mut users: BTreeMap<u32, (Use, BTreeMap<usize, Access>)> = BTreeMap::new();
    for found in uses {
        let Some(&number) = numbers.get(&found.inode) else {
            continue;
        };
        let (_, files) = users
            .entry(found.pid)
            .or_insert_with(|| (*found, BTreeMap::new()));
        let access = files.entry(number).or_default();
        access.open |= found.kind == UseKind::Open as u32;
        access.mapped |= found.kind == UseKind::Mapped as u32;
    }
    let user = |(pid, (found, files)): (u32, (Use, BTreeMap<usize, Access>))| User {
        pid,
        started: found.started,
        comm: comm(pid),
        threads: found.threads as usize,
        shares_memory: shared.contains(&found.memory),
        files: files.into_iter().collect(),
    };
    users.into_iter().map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(pid: u32, memory: u64, inode: u64, kind: UseKind) -> Use {
        Use {
            inode,
            memory,
            started: u64::from(pid) * 100,
            pid,
            threads: 1,
            kind: kind as u32,
            padding: 0,
        }
    }

    #[test]
    fn a_process_is_listed_once_with_all_that_it_uses() {
        let uses = [
            used(9, 1, 70, UseKind::Open),
            used(8, 2, 71, UseKind::Open),
            used(9, 1, 70, UseKind::Mapped),
            used(9, 1, 70, UseKind::Open),
            used(9, 1, 99, UseKind::Open),
        ];
        let users = gather(&uses, &[70, 71]);
        assert_eq!(
            users.iter().map(|user| user.pid).collect::<Vec<_>>(),
            [8, 9]
        );
        let both = Access {
            open: true,
            mapped: true,
        };
        assert_eq!(users[1].files, [(0, both)]);
        assert!(users[1].maps() && !users[0].maps());
        assert!(users.iter().all(|user| !user.has_company()));
        assert_eq!(users[0].started, 800);
    }

    #[test]
    fn who_has_anothers_memory_is_not_alone() {
        let uses = [
            used(7, 5, 70, UseKind::Mapped),
            used(8, 5, 70, UseKind::Mapped),
            used(9, 6, 70, UseKind::Mapped),
        ];
        let company: Vec<bool> = gather(&uses, &[70]).iter().map(User::has_company).collect();
        assert_eq!(company, [true, true, false]);
    }

    #[tokio::test]
    async fn a_kernel_that_waits_is_not_waited_for() {
        let (never, _writer) = io::pipe().unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        let Err(Unknown::Why(sentence)) = heard(never, deadline).await else {
            panic!("it was heard");
        };
        assert!(sentence.contains("state D"), "{sentence}");
    }
}
