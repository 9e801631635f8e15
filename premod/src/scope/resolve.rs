//! Where a path leads to, name by name: what the kernel does when it looks a path up, so that premod knows every name
//! on the way, those of symbolic links too.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Component, Path, PathBuf},
};

use premod_common::watched::Watched;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    io::Errno,
};

/// As many symbolic links as the kernel follows (`MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;

/// What tells one inode from another for as long as one of the two is open.
pub(super) type Identity = (u64, u64);

/// An opened inode on the way.
pub(super) struct Node {
    pub(super) file: OwnedFd,
    pub(super) identity: Identity,
    pub(super) kind: FileType,
}

/// A name that is looked up on the way.
pub(super) struct Step {
    /// Where, as an index into [`Resolved::nodes`].
    pub(super) directory: usize,
    pub(super) name: OsString,
    /// What has the name, as an index; `None` if nothing has.
    pub(super) found: Option<usize>,
    /// Where that leads to, if it is a symbolic link.
    pub(super) target: Option<OsString>,
    /// Whatever gets this name is what the path leads to.
    pub(super) last: bool,
}

/// A path, looked up.
pub(super) struct Resolved {
    pub(super) nodes: Vec<Node>,
    pub(super) steps: Vec<Step>,
    /// What the path leads to, as an index; or why it leads nowhere.
    pub(super) end: Result<usize, Errno>,
    /// The path without symbolic links, as far as it leads.
    pub(super) canonical: PathBuf,
}

impl Resolved {
    /// Looks an absolute path up.
    ///
    /// # Errors
    /// If that cannot be told: it neither leads somewhere nor nowhere.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let mut lookup = Lookup {
            nodes: vec![Node::open(CWD, OsStr::new("/"))?],
            steps: Vec::new(),
            trail: Vec::new(),
            rest: VecDeque::new(),
        };
        lookup.add(path);
        let end = lookup.follow();
        let end = match end {
            Err(errno) if !leads_nowhere(errno) => return Err(errno.into()),
            end => end,
        };
        let mut canonical = PathBuf::from("/");
        canonical.extend(lookup.trail.iter().map(|&step| &lookup.steps[step].name));
        Ok(Self {
            nodes: lookup.nodes,
            steps: lookup.steps,
            end,
            canonical,
        })
    }

    /// What the kernel side has to know of a step's name.
    pub(super) fn flags(&self, step: usize) -> u64 {
        // What gets a name that nothing has may be a link.
        let is_link = |step: &Step| step.target.is_some() || step.found.is_none();
        let last = if self.steps[step].last {
            Watched::LAST
        } else {
            0
        };
        let links = if self.steps[step..].iter().any(is_link) {
            Watched::LINKS
        } else {
            0
        };
        last | links
    }

    /// The directories in which there are symbolic links on the way.
    pub(super) fn directories_of_links(&self) -> impl Iterator<Item = &Node> {
        let links = self.steps.iter().filter(|step| step.target.is_some());
        links.map(|step| &self.nodes[step.directory])
    }

    /// What the path leads to.
    pub(super) fn node(&self) -> Option<&Node> {
        self.end.ok().map(|index| &self.nodes[index])
    }
}

/// Whether this is what the kernel says of a path that leads nowhere.
pub(super) fn leads_nowhere(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE
    )
}

impl Node {
    fn open(directory: impl AsFd, name: &OsStr) -> Result<Self, Errno> {
        let node = Self::open_with(&directory, name, OFlags::NOFOLLOW)?;
        if node.kind == FileType::Symlink
            && rustix::fs::fstatfs(&node.file)?.f_type == rustix::fs::PROC_SUPER_MAGIC
        {
            // Those of procfs lead where no text says (/proc/PID/root, /proc/PID/fd).
            return Self::open_with(&directory, name, OFlags::empty());
        }
        Ok(node)
    }

    fn open_with(directory: impl AsFd, name: &OsStr, follow: OFlags) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | follow;
        let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let status = rustix::fs::fstat(&file)?;
        Ok(Self {
            file,
            identity: (status.st_dev, status.st_ino),
            kind: FileType::from_raw_mode(status.st_mode),
        })
    }
}

/// A look-up that is under way.
struct Lookup {
    nodes: Vec<Node>,
    steps: Vec<Step>,
    /// The steps that lead from the root to where we are.
    trail: Vec<usize>,
    /// The names that are still to be looked up; `..` for the directory above, `.` where a slash says that it is one.
    rest: VecDeque<OsString>,
}

impl Lookup {
    /// Puts a path before what is left to look up.
    fn add(&mut self, path: &Path) {
        let names: Vec<_> = path
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => Some(name.to_owned()),
                Component::ParentDir => Some(OsString::from("..")),
                _ => None,
            })
            .collect();
        if matches!(
            path.as_os_str().as_encoded_bytes(),
            [.., b'/'] | [.., b'/', b'.']
        ) {
            self.rest.push_front(OsString::from("."));
        }
        for name in names.into_iter().rev() {
            self.rest.push_front(name);
        }
        if path.is_absolute() {
            self.trail.clear();
        }
    }

    /// Looks up what is left; where that has led.
    fn follow(&mut self) -> Result<usize, Errno> {
        let mut links = 0;
        while let Some(name) = self.rest.pop_front() {
            let directory = self.here();
            if name == ".." || name == "." {
                if self.nodes[directory].kind != FileType::Directory {
                    return Err(Errno::NOTDIR);
                }
                if name == ".." {
                    self.trail.pop();
                }
                continue;
            }
            let last = self.rest.iter().all(|name| name == ".");
            let opened = Node::open(&self.nodes[directory].file, &name);
            let step = self.steps.len();
            self.steps.push(Step {
                directory,
                name,
                found: opened.as_ref().ok().map(|_| self.nodes.len()),
                target: None,
                last,
            });
            let node = match opened {
                Ok(node) => node,
                Err(errno) => {
                    self.trail.push(step);
                    return Err(errno);
                }
            };
            if node.kind == FileType::Symlink {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP);
                }
                let target = rustix::fs::readlinkat(&node.file, "", Vec::new())?;
                self.nodes.push(node);
                let target = OsString::from_vec(target.into_bytes());
                self.add(Path::new(&target));
                self.steps[step].target = Some(target);
            } else {
                self.nodes.push(node);
                self.trail.push(step);
            }
        }
        // After `..` the end is what was met before.
        if let Some(&step) = self.trail.last() {
            self.steps[step].last = true;
        }
        Ok(self.here())
    }

    /// The node where we are.
    fn here(&self) -> usize {
        // Every step of the trail has found something: else the look-up has ended there.
        self.trail
            .last()
            .and_then(|&step| self.steps[step].found)
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::freeze::tests::Directory;

    /// The names on the way below the test's directory, each with whether it is the last, and whether something has it.
    fn names(resolved: &Resolved, above: &Path) -> Vec<(String, bool, bool)> {
        let skipped = fs::canonicalize(above).unwrap().components().count() - 1;
        resolved.steps[skipped..]
            .iter()
            .map(|step| {
                let name = step.name.to_str().unwrap().to_owned();
                (name, step.last, step.found.is_some())
            })
            .collect()
    }

    #[test]
    fn every_name_on_the_way_is_known() {
        let directory = Directory::new();
        let top = fs::canonicalize(&directory.path).unwrap();
        fs::create_dir_all(top.join("v1/db")).unwrap();
        symlink("v1", top.join("current")).unwrap();
        symlink("current/db", top.join("db")).unwrap();
        let found = |name: &str, last| (name.to_owned(), last, true);

        let resolved = Resolved::of(&top.join("db")).unwrap();
        assert_eq!(
            names(&resolved, &top),
            [
                found("db", true),
                found("current", false),
                found("v1", false),
                found("db", true),
            ]
        );
        assert_eq!(resolved.canonical, top.join("v1/db"));
        let again = Resolved::of(&top.join("v1/../v1/./db")).unwrap();
        assert_eq!(
            again.node().unwrap().identity,
            resolved.node().unwrap().identity
        );
        let above = Resolved::of(&top.join("v1/db/..")).unwrap();
        assert_eq!(names(&above, &top), [found("v1", true), found("db", false)]);
    }

    #[test]
    fn what_leads_nowhere_is_followed_as_far_as_it_leads() {
        let directory = Directory::new();
        let top = fs::canonicalize(&directory.path).unwrap();
        let resolved = Resolved::of(&top.join("a/b/c")).unwrap();
        assert_eq!(resolved.end, Err(Errno::NOENT));
        assert_eq!(names(&resolved, &top), [("a".to_owned(), false, false)]);
        let resolved = Resolved::of(&top.join("a")).unwrap();
        assert_eq!(names(&resolved, &top), [("a".to_owned(), true, false)]);
        fs::write(top.join("a"), "").unwrap();
        let resolved = Resolved::of(&top.join("a/b")).unwrap();
        assert_eq!(resolved.end, Err(Errno::NOTDIR));
        symlink("loop", top.join("loop")).unwrap();
        assert_eq!(
            Resolved::of(&top.join("loop")).unwrap().end,
            Err(Errno::LOOP)
        );
    }

    #[test]
    fn a_slash_at_the_end_means_a_directory() {
        let directory = Directory::new();
        let top = fs::canonicalize(directory.file("file").parent().unwrap()).unwrap();
        symlink("file/", top.join("link")).unwrap();
        fs::create_dir(top.join("below")).unwrap();
        let end = |path: &str| Resolved::of(&top.join(path)).unwrap().end;
        for path in ["file/", "file/.", "file/..", "link"] {
            assert_eq!(end(path), Err(Errno::NOTDIR), "{path}");
        }
        assert!(end("below/").is_ok() && end("below/.").is_ok() && end("file").is_ok());
        let missing = Resolved::of(&top.join("missing/")).unwrap();
        assert_eq!(names(&missing, &top), [("missing".to_owned(), true, false)]);
        let found = Resolved::of(&top.join("below/")).unwrap();
        assert_eq!(names(&found, &top), [("below".to_owned(), true, true)]);
    }

    #[test]
    fn links_of_procfs_lead_where_the_kernel_says() {
        let directory = Directory::new();
        let file = fs::File::open(directory.file("file")).unwrap();
        fs::remove_file(directory.path.join("file")).unwrap();
        use std::os::{fd::AsRawFd, unix::fs::MetadataExt};
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let resolved = Resolved::of(Path::new(&path)).unwrap();
        let status = file.metadata().unwrap();
        assert_eq!(
            resolved.node().unwrap().identity,
            (status.dev(), status.ino())
        );
    }

    #[test]
    fn the_root_has_no_name() {
        let resolved = Resolved::of(Path::new("/..")).unwrap();
        assert!(resolved.steps.is_empty());
        assert_eq!(resolved.canonical, Path::new("/"));
        assert_eq!(resolved.end, Ok(0));
    }
}
