//! The hooks keep the deadline by the kernel's own clocks, and know a process by when it began. In a time namespace premod
//! would see others.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::error::Error;

/// Refuses to go on where this process's clocks are not the kernel's.
///
/// # Errors
/// In a time namespace other than the one that the machine's first process is in.
pub(crate) fn must_be_the_kernels() -> Result<(), Error> {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/time"));
    check(namespace("self"), namespace("1"))
}

fn check(own: io::Result<PathBuf>, first: io::Result<PathBuf>) -> Result<(), Error> {
    match (own, first) {
        (Ok(own), Ok(first)) if own == first => Ok(()),
        // A kernel without time namespaces.
        (Err(own), _) if own.kind() == io::ErrorKind::NotFound && Path::new("/proc/self/ns").exists() => Ok(()),
        (Ok(_), Ok(_)) => Err(Error::BadValue(
            "premod freezes and thaws in the machine's own time namespace only, where its clocks are the kernel's: run it on the host, not in the container".to_owned(),
        )),
        (own, first) => {
            let reason = own.and(first).err().map_or(String::new(), |error| error.to_string());
            Err(Error::Kernel {
                context: "cannot tell whether this is the machine's own time namespace (/proc/1/ns/time)".to_owned(),
                reason,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_namespace_is_refused_and_a_kernel_without_is_not() {
        let is = |name: &str| Ok(PathBuf::from(name));
        let fails = |kind: io::ErrorKind| Err(io::Error::from(kind));
        assert!(check(is("time:[1]"), is("time:[1]")).is_ok());
        let refusal = check(is("time:[2]"), is("time:[1]")).unwrap_err();
        assert!(refusal.to_string().contains("time namespace"), "{refusal}");
        let missing = || fails(io::ErrorKind::NotFound);
        assert!(check(missing(), missing()).is_ok());
        assert!(check(is("time:[1]"), fails(io::ErrorKind::PermissionDenied)).is_err());
    }
}
