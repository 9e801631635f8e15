//! Which events are shown.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::{
    Error,
    events::{FirstDirty, Op, Pid, Tid},
};

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
    /// Cgroup ids.
    pub cgroups: Vec<u64>,
    /// Kinds of modification.
    pub ops: Vec<Op>,
    /// Filesystem types.
    pub filesystems: Vec<String>,
    /// Paths to leave out.
    pub exclude: GlobSet,
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
            && any(&self.cgroups, &event.cgroup)
            && any(&self.ops, &event.op)
            && any(&self.filesystems, &*event.filesystem)
            && (self.exclude.is_empty() || !self.exclude.is_match(event.path.to_path_buf()))
    }
}

/// Compiles patterns: `*` and `?` stay within a component, `**` crosses them. A pattern without a slash
/// is about the last component.
///
/// # Errors
/// If one is malformed.
pub fn globs(patterns: &[String]) -> Result<GlobSet, Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let whole = if pattern.contains('/') {
            pattern.clone()
        } else {
            format!("**/{pattern}")
        };
        let glob = GlobBuilder::new(&whole).literal_separator(true).build();
        set.add(glob.map_err(|error| {
            Error::BadValue(format!(
                "--exclude {pattern}: not a pattern: {}",
                error.kind()
            ))
        })?);
    }
    set.build()
        .map_err(|error| Error::BadValue(format!("--exclude: {error}")))
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
    fn patterns_are_about_names_or_whole_paths() {
        let excluded = |pattern: &str| {
            let exclude = globs(&[pattern.to_owned()]).unwrap();
            !Filter {
                exclude,
                ..Filter::default()
            }
            .accepts(&sample())
        };
        assert!(excluded("heap") && excluded("he*") && excluded("/data/**"));
        assert!(!excluded("/data/*") && !excluded("data"));
        assert!(globs(&["[".to_owned()]).is_err());
    }
}
