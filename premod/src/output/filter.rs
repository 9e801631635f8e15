//! Which events are shown.

use std::path::PathBuf;

use super::Exclude;
use crate::events::{FirstDirty, Op, Pid, Tid};

/// In which cgroup a change is caused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// In the one with this id or in one below it. [`TracerBuilder::cgroup`](crate::TracerBuilder::cgroup) has to ask
    /// for it, too.
    Tree(u64),
    /// The same for whichever has this directory: [`TracerBuilder::cgroup_directory`](crate::TracerBuilder::cgroup_directory).
    Directory(PathBuf),
    /// In the one with this id and in no other.
    Alone(u64),
}

impl Cgroup {
    fn has(&self, event: &FirstDirty) -> bool {
        match self {
            Self::Tree(_) | Self::Directory(_) => event.in_cgroup,
            Self::Alone(id) => event.cgroup == *id,
        }
    }
}

/// Conditions on events. Within one kind any may hold (an empty list means no condition); all kinds have
/// to hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Processes.
    pub pids: Vec<Pid>,
    /// Threads.
    pub tids: Vec<Tid>,
    /// User ids.
    pub uids: Vec<u32>,
    /// Task names; of longer ones, as the kernel does, the first 15 bytes.
    pub comms: Vec<Vec<u8>>,
    /// Cgroups.
    pub cgroups: Vec<Cgroup>,
    /// Kinds of modification.
    pub ops: Vec<Op>,
    /// Filesystem types.
    pub filesystems: Vec<String>,
    /// What to leave out.
    pub exclude: Exclude,
}

impl Filter {
    /// Whether processes or threads are chosen by their numbers.
    pub(crate) fn names_processes(&self) -> bool {
        !(self.pids.is_empty() && self.tids.is_empty())
    }

    /// Whether the event is wanted.
    #[must_use]
    pub fn accepts(&self, event: &FirstDirty) -> bool {
        fn any<T: PartialEq<U>, U: ?Sized>(wanted: &[T], found: &U) -> bool {
            wanted.is_empty() || wanted.iter().any(|wanted| wanted == found)
        }
        any(&self.pids, &event.pid)
            && any(&self.tids, &event.tid)
            && any(&self.uids, &event.uid)
            && (self.comms.is_empty() || self.comms.iter().any(|comm| is_called(&event.comm, comm)))
            && any(&self.ops, &event.op)
            && any(&self.filesystems, &*event.filesystem)
            && (self.cgroups.is_empty() || self.cgroups.iter().any(|cgroup| cgroup.has(event)))
            && !self.exclude.leaves_out(&event.path)
    }
}

/// Of a longer name the kernel keeps the first bytes (`TASK_COMM_LEN`, with a NUL byte).
const COMM_MAX: usize = 15;

fn is_called(comm: &[u8], name: &[u8]) -> bool {
    comm == name || name.get(..COMM_MAX).is_some_and(|kept| comm == kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::text::sample;

    #[test]
    fn an_empty_filter_accepts() {
        assert!(Filter::default().accepts(&sample()));
    }

    #[test]
    fn kinds_combine_with_and_values_with_or() {
        let event = sample();
        let by_pid = Filter {
            pids: vec![Pid(1), event.pid],
            ..Filter::default()
        };
        assert!(by_pid.accepts(&event));
        let other_op = Filter {
            ops: vec![Op::Truncate],
            ..by_pid
        };
        assert!(!other_op.accepts(&event));
        let comm = Filter {
            comms: vec![b"postgres".to_vec()],
            ..Filter::default()
        };
        assert!(comm.accepts(&event));
        let comm = Filter {
            comms: vec![b"postgre".to_vec()],
            ..Filter::default()
        };
        assert!(!comm.accepts(&event));
    }

    #[test]
    fn a_long_name_is_that_of_the_task_that_has_its_beginning() {
        assert!(is_called(b"systemd-resolve", b"systemd-resolved"));
        assert!(is_called(b"systemd-resolve", b"systemd-resolve"));
        assert!(!is_called(b"systemd-resolv", b"systemd-resolve"));
        assert!(is_called(b"", b"") && !is_called(b"", b"x"));
    }

    #[test]
    fn cgroups_are_alone_or_with_those_below() {
        let in_cgroups = |cgroups: &[Cgroup], in_cgroup: bool| {
            let mut event = sample();
            event.in_cgroup = in_cgroup;
            let filter = Filter {
                cgroups: cgroups.to_vec(),
                ..Filter::default()
            };
            filter.accepts(&event)
        };
        let own = sample().cgroup;
        assert!(in_cgroups(&[Cgroup::Tree(1)], true));
        assert!(!in_cgroups(&[Cgroup::Tree(own)], false));
        assert!(in_cgroups(&[Cgroup::Alone(own)], false));
        assert!(!in_cgroups(&[Cgroup::Alone(own + 1)], true));
        assert!(in_cgroups(&[Cgroup::Alone(own + 1), Cgroup::Tree(1)], true));
    }
}
