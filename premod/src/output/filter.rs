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
    /// Task names.
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
    /// Whether the event is wanted.
    #[must_use]
    pub fn accepts(&self, event: &FirstDirty) -> bool {
        fn any<T: PartialEq<U>, U: ?Sized>(wanted: &[T], found: &U) -> bool {
            wanted.is_empty() || wanted.iter().any(|wanted| wanted == found)
        }
        any(&self.pids, &event.pid)
            && any(&self.tids, &event.tid)
            && any(&self.uids, &event.uid)
            && any(&self.comms, &event.comm)
            && any(&self.ops, &event.op)
            && any(&self.filesystems, &*event.filesystem)
            && (self.cgroups.is_empty() || self.cgroups.iter().any(|cgroup| cgroup.has(event)))
            && !self.exclude.leaves_out(&event.path)
    }
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
