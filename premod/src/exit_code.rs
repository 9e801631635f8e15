//! What premod's exit status says. The numbers are part of the interface.

use crate::Error;

/// Exit statuses of premod itself. `trace -- CMD` ends with CMD's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All went well.
    Ok = 0,
    /// Something failed that none of the others names.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Not root, or a capability is missing.
    NotPermitted = 10,
    /// The kernel refuses the BPF programs (lockdown, a policy).
    KernelRefuses = 11,
    /// The kernel has no usable type information.
    NoBtf = 12,
    /// The kernel lacks a hook or a fact that is needed, or its verifier rejects a program.
    KernelLacks = 13,
    /// A PATH does not exist, or is no regular file or directory.
    BadPath = 14,
    /// A PATH lies where stores through mappings cannot be seen.
    Unseen = 15,
    /// The output cannot be written, or was not written to its end.
    Output = 16,
    /// A frozen file was modified, or may have been, or the freeze ended before CMD did: CMD's result is not
    /// safe.
    Violated = 17,
    /// The files could not be frozen in time.
    NotFrozenInTime = 18,
    /// A file is frozen already by another premod.
    Busy = 19,
    /// A FILE to be thawed is not frozen, or a freeze without CMD was ended by its timeout.
    NotFrozen = 20,
    /// More files than premod may have open, than one freeze takes, or than a trace can follow.
    TooManyFiles = 21,
    /// CMD cannot be executed.
    NotExecutable = 126,
    /// CMD was not found.
    NotFound = 127,
}

impl From<&Error> for ExitCode {
    fn from(error: &Error) -> Self {
        match error {
            Error::NotPermitted { .. } | Error::RootOnly { .. } => Self::NotPermitted,
            Error::KernelRefuses { .. } => Self::KernelRefuses,
            Error::NoBtf { .. } => Self::NoBtf,
            Error::KernelLacks { .. } | Error::Rejected { .. } => Self::KernelLacks,
            Error::Path { .. } | Error::NotTraceable { .. } | Error::Thaw { .. } => Self::BadPath,
            Error::Unseen { .. } | Error::Stacked { .. } => Self::Unseen,
            Error::NotFreezable { code, .. } => *code,
            Error::NotFrozenInTime { .. } => Self::NotFrozenInTime,
            Error::BadValue(_) | Error::BadPlace { .. } => Self::Usage,
            Error::Busy { .. } => Self::Busy,
            Error::NotFrozen { .. } => Self::NotFrozen,
            Error::TooManyFiles { .. } | Error::TooManyToFreeze { .. } | Error::TooManyPaths => {
                Self::TooManyFiles
            }
            Error::NoAnswer { .. } | Error::RunDirectory { .. } | Error::Kernel { .. } => {
                Self::Failure
            }
        }
    }
}

/// The exit code for whatever a command returned.
#[must_use]
pub fn of(error: &anyhow::Error) -> ExitCode {
    if let Some(error) = error.downcast_ref::<Error>() {
        return error.into();
    }
    error
        .downcast_ref::<Failed>()
        .map_or(ExitCode::Failure, |failed| failed.code)
}

/// A failure of the command line program, with its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct Failed {
    /// What to exit with.
    pub code: ExitCode,
    /// What to say.
    pub sentence: String,
}
