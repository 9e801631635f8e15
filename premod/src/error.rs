//! Why premod cannot do what it was asked to do. Each is one sentence that says what to do about it.

use std::{path::PathBuf, time::Duration};

use crate::{
    events::Pid,
    exit_code::ExitCode,
    kernel::btf::BtfError,
    namespaces::{self, Kind},
};

/// An error of the library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process lacks capabilities.
    #[error(
        "premod needs {missing} to load its programs into the kernel: run it as root (sudo premod …)"
    )]
    NotPermitted {
        /// Names of the missing capabilities.
        missing: String,
    },
    /// The kernel has no type information.
    #[error(
        "this kernel ({release}) shows no usable type information: {source}; premod needs one built with CONFIG_DEBUG_INFO_BTF=y, and sysfs mounted"
    )]
    NoBtf {
        /// `uname -r`.
        release: String,
        /// What went wrong.
        source: BtfError,
    },
    /// Lockdown or a policy keeps all BPF programs of this kind out.
    #[error("this kernel ({release}) refuses premod's BPF programs: {reason}")]
    KernelRefuses {
        /// `uname -r`.
        release: String,
        /// Lockdown, or what the kernel answered.
        reason: String,
    },
    /// The verifier did not accept a program; a defect of premod.
    #[error(
        "the kernel's verifier rejected premod's program {program}: {reason}; please report this with the output of premod doctor --json"
    )]
    Rejected {
        /// Name of the program.
        program: String,
        /// The end of what the verifier says.
        reason: String,
    },
    /// The kernel lacks something that is needed.
    #[error("this kernel ({release}) lacks {what}, without which {cost}; see premod doctor")]
    KernelLacks {
        /// `uname -r`.
        release: String,
        /// The fact or hook.
        what: String,
        /// What does not work.
        cost: String,
    },
    /// A PATH cannot be opened.
    #[error("cannot trace {}: {source}", path.display())]
    Path {
        /// The PATH.
        path: PathBuf,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// A place that is to be left out cannot be opened.
    #[error("cannot leave out {}: {source}", path.display())]
    BadPlace {
        /// The place.
        path: PathBuf,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// A PATH is neither a regular file nor a directory.
    #[error(
        "cannot trace {}: it is a {kind}; give a regular file or a directory", path.display()
    )]
    NotTraceable {
        /// The PATH.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A PATH lies where stores through mappings cannot be seen.
    #[error(
        "cannot trace {}: it lies on {filesystem}, which keeps no dirty marks; write and truncate could be seen there, but a store through a mapping is made without any call into the kernel, so premod would miss it",
        path.display()
    )]
    Unseen {
        /// The PATH.
        path: PathBuf,
        /// Type of its filesystem.
        filesystem: String,
    },
    /// A PATH lies on a filesystem that keeps its data elsewhere.
    #[error(
        "cannot trace {}: it lies on overlayfs, whose files live on the upper filesystem; trace the upper directory instead",
        path.display()
    )]
    Stacked {
        /// The PATH.
        path: PathBuf,
    },
    /// A file about which a freeze could promise nothing, or that is not there.
    #[error("cannot freeze {}: {why}", path.display())]
    NotFreezable {
        /// The file.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
        /// Which kind of reason it is.
        code: ExitCode,
    },
    /// Files could not be frozen in time. Everybody passes again.
    #[error("cannot freeze {} within {} s: {why}", counted(*files), timeout.as_secs_f64())]
    NotFrozenInTime {
        /// How many files.
        files: usize,
        /// How long was tried.
        timeout: Duration,
        /// What was in the way.
        why: String,
    },
    /// A file is frozen already.
    #[error(
        "cannot freeze {}: it is frozen already by {} (EBUSY); premod status tells more",
        path.display(),
        named(*pid)
    )]
    Busy {
        /// The file.
        path: PathBuf,
        /// The premod that has frozen it, if it says so.
        pid: Option<Pid>,
    },
    /// A FILE to be thawed is not frozen.
    #[error("cannot thaw {}: it is not frozen by premod; premod status tells what is", path.display())]
    NotFrozen {
        /// The FILE.
        path: PathBuf,
    },
    /// A FILE to be thawed cannot be looked at.
    #[error("cannot thaw {}: {source}", path.display())]
    Thaw {
        /// The FILE.
        path: PathBuf,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// Another premod was asked something.
    #[error("no answer from premod {}: {why}", pid.0)]
    NoAnswer {
        /// Its process id.
        pid: Pid,
        /// What came instead.
        why: String,
    },
    /// The run directory cannot be used.
    #[error("cannot use {}, where premod keeps its freezes: {reason}", path.display())]
    RunDirectory {
        /// The directory, or what is in it.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The run directory is root's.
    #[error(
        "cannot use {}, where premod keeps its freezes: only root may; run premod as root (sudo premod …)",
        path.display()
    )]
    RootOnly {
        /// The directory, or what is in it.
        path: PathBuf,
    },
    /// More files than can be kept open.
    #[error(
        "cannot keep {files} files open: premod needs {needed} descriptors for that, and may have {allowed}; raise the limit (ulimit -n {needed}, or LimitNOFILE= of the service)"
    )]
    TooManyFiles {
        /// How many files were given.
        files: usize,
        /// How many descriptors premod needs.
        needed: u64,
        /// How many it may have.
        allowed: u64,
    },
    /// More files than one freeze can take.
    #[error("cannot freeze {files} files at once: at most {most}; freeze them in parts")]
    TooManyToFreeze {
        /// How many files were given.
        files: usize,
        /// How many are possible.
        most: u32,
    },
    /// More PATHs than can be followed.
    #[error(
        "cannot follow so many PATHs: on the way to all of them may be 65,536 names, and as many directories; trace directories that they lie in"
    )]
    TooManyPaths,
    /// A value that the kernel does not take.
    #[error("{0}")]
    BadValue(String),
    /// Anything else that went wrong between premod and the kernel.
    #[error("{context}: {reason}")]
    Kernel {
        /// What premod was doing.
        context: String,
        /// What the kernel answered.
        reason: String,
    },
}

impl Error {
    /// These capabilities are missing.
    pub(crate) fn not_permitted(missing: &[String]) -> Self {
        let mut missing = missing.join(" and ");
        if namespaces::is_in_another(Kind::User) {
            missing.push_str(" outside of this user namespace");
        }
        Self::NotPermitted { missing }
    }

    /// Wraps an error of the BPF loader.
    pub(crate) fn kernel(context: impl Into<String>, reason: &dyn std::error::Error) -> Self {
        Self::Kernel {
            context: context.into(),
            reason: chain(reason),
        }
    }
}

fn counted(files: usize) -> String {
    match files {
        1 => "the file".to_owned(),
        more => format!("the {more} files"),
    }
}

/// A premod, as far as it is known.
fn named(pid: Option<Pid>) -> String {
    pid.map_or_else(
        || "another premod".to_owned(),
        |pid| format!("premod {}", pid.0),
    )
}

/// An error and its causes, each once: some sentences have their cause in them.
#[must_use]
pub fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The same in one line, for what the kernel and the loader say.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    sentence(error).replace('\n', " ")
}
