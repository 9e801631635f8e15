//! The machine's own namespaces, and those of containers. Only in the machine's own pid namespace every process is seen by
//! the number that the hooks know it by, only in its time namespace clocks are the kernel's, and only in its user namespace
//! capabilities are worth anything to BPF.

use std::{ffi::OsString, fs, io, path::PathBuf};

use crate::error::Error;

/// A kind of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Processes have numbers of its own.
    Pid,
    /// Clocks show other times.
    Time,
    /// Users and capabilities are its own.
    User,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Time => "time",
            Self::User => "user",
        }
    }

    /// The machine's own have fixed numbers (`enum init_ns_ino` of linux/nsfs.h; the same since 3.8, that of time since
    /// 5.6).
    fn of_the_machine(self) -> u32 {
        match self {
            Self::Pid => 0xefff_fffc,
            Self::Time => 0xefff_fffa,
            Self::User => 0xefff_fffd,
        }
    }

    fn own(self) -> io::Result<PathBuf> {
        fs::read_link(format!("/proc/self/ns/{}", self.name()))
    }

    /// Whether this process is in the machine's own.
    fn is_the_machines(self, own: io::Result<PathBuf>) -> io::Result<bool> {
        let expected = format!("{}:[{}]", self.name(), self.of_the_machine());
        match own {
            Ok(own) => Ok(own.as_os_str() == OsString::from(expected)),
            // A kernel without time namespaces, or user namespaces.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self != Self::Pid => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Whether this process is in another namespace of this kind than the machine's own, as in a container. If that cannot be
/// told, it is not.
pub(crate) fn is_in_another(kind: Kind) -> bool {
    matches!(kind.is_the_machines(kind.own()), Ok(false))
}

/// Refuses to freeze and let go where what looks dead may live, and where deadlines are others.
///
/// # Errors
/// In a pid or time namespace other than the machine's own.
pub(crate) fn must_be_the_machines() -> Result<(), Error> {
    check(Kind::Pid, Kind::Pid.own())?;
    check(Kind::Time, Kind::Time.own())
}

fn check(kind: Kind, own: io::Result<PathBuf>) -> Result<(), Error> {
    let name = kind.name();
    match kind.is_the_machines(own) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::BadValue(format!(
            "premod freezes and thaws in the machine's own {name} namespace only: run it on the host, not in the container"
        ))),
        Err(error) => Err(Error::kernel(
            format!("cannot tell which {name} namespace this is (/proc/self/ns/{name})"),
            &error,
        )),
    }
}

/// How far this process's `CLOCK_MONOTONIC` is ahead of the machine's, in nanoseconds.
pub(crate) fn monotonic_offset() -> i64 {
    // A kernel without time namespaces has no such file.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    monotonic_in(&offsets).unwrap_or(0)
}

fn monotonic_in(offsets: &str) -> Option<i64> {
    let mut fields = offsets
        .lines()
        .map(str::split_ascii_whitespace)
        .find_map(|mut fields| (fields.next() == Some("monotonic")).then_some(fields))?;
    let mut number = || fields.next()?.parse::<i64>().ok();
    number()?.checked_mul(1_000_000_000)?.checked_add(number()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_namespace_is_refused_and_a_kernel_without_is_not() {
        let is = |name: &str| Ok(PathBuf::from(name));
        assert!(check(Kind::Pid, is("pid:[4026531836]")).is_ok());
        assert!(check(Kind::Time, is("time:[4026531834]")).is_ok());
        let refusal = check(Kind::Time, is("time:[4026532260]")).unwrap_err();
        assert!(refusal.to_string().contains("time namespace"), "{refusal}");
        let missing = || Err(io::ErrorKind::NotFound.into());
        assert!(check(Kind::Time, missing()).is_ok());
        assert!(check(Kind::Pid, missing()).is_err());
        assert!(Kind::User.is_the_machines(is("user:[4026531837]")).unwrap());
        assert!(!Kind::User.is_the_machines(is("user:[4026532260]")).unwrap());
    }

    #[test]
    fn the_offset_of_a_time_namespace_is_read() {
        let offsets =
            |monotonic: &str| format!("monotonic  {monotonic}\nboottime            0         0\n");
        assert_eq!(monotonic_in(&offsets("        0         0")), Some(0));
        assert_eq!(
            monotonic_in(&offsets("      -10         7")),
            Some(-9_999_999_993)
        );
        assert_eq!(
            monotonic_in(&offsets("   100000         0")),
            Some(100_000_000_000_000)
        );
        assert_eq!(monotonic_in(&offsets("x")), None);
        assert_eq!(monotonic_in(""), None);
    }
}
