//! Where premod can freeze and let go: where it sees every process by the number that the hooks know it by, and where its
//! clocks are the kernel's, by which the hooks keep the deadline and tell processes apart.

use std::{ffi::OsString, io, path::PathBuf};

use crate::error::Error;

/// The machine's own namespaces have fixed numbers (`enum init_ns_ino` of linux/nsfs.h; the same since 3.8 and 5.6).
const PID: (&str, u32) = ("pid", 0xefff_fffc);
const TIME: (&str, u32) = ("time", 0xefff_fffa);

/// Refuses to go on elsewhere: what looks dead from there may live.
///
/// # Errors
/// In a pid or time namespace other than the machine's own.
pub(crate) fn must_be_the_machines() -> Result<(), Error> {
    for namespace in [PID, TIME] {
        let (kind, _) = namespace;
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}"));
        check(namespace, own)?;
    }
    Ok(())
}

fn check((kind, number): (&str, u32), own: io::Result<PathBuf>) -> Result<(), Error> {
    match own {
        Ok(own) if own.as_os_str() == OsString::from(format!("{kind}:[{number}]")) => Ok(()),
        Ok(_) => Err(Error::BadValue(format!(
            "premod freezes and thaws in the machine's own {kind} namespace only: run it on the host, not in the container"
        ))),
        // A kernel without time namespaces.
        Err(error) if error.kind() == io::ErrorKind::NotFound && kind == TIME.0 => Ok(()),
        Err(error) => Err(Error::kernel(
            format!("cannot tell which {kind} namespace this is (/proc/self/ns/{kind})"),
            &error,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_namespace_is_refused_and_a_kernel_without_is_not() {
        let is = |name: &str| Ok(PathBuf::from(name));
        assert!(check(PID, is("pid:[4026531836]")).is_ok());
        assert!(check(TIME, is("time:[4026531834]")).is_ok());
        let refusal = check(TIME, is("time:[4026532260]")).unwrap_err();
        assert!(refusal.to_string().contains("time namespace"), "{refusal}");
        let missing = || Err(io::ErrorKind::NotFound.into());
        assert!(check(TIME, missing()).is_ok());
        assert!(check(PID, missing()).is_err());
    }
}
