//! How many files premod may have open, and how many it needs: each file that it is about stays open.

use rustix::process::{Resource, getrlimit};

use crate::Error;

/// What premod needs for itself: programs, links and maps, and a few for files of the moment.
const OWN: u64 = 512;

/// Looks whether this many files can be kept open.
///
/// # Errors
/// If not; with the number that is needed.
pub(super) fn must_suffice_for(files: usize) -> Result<(), Error> {
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let needed = files as u64 + OWN;
    if needed > allowed {
        return Err(Error::TooManyFiles {
            files,
            needed,
            allowed,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit_code::ExitCode;

    #[test]
    fn the_number_that_is_needed_is_named() {
        assert!(must_suffice_for(1).is_ok());
        let error = must_suffice_for(1 << 40).unwrap_err();
        assert_eq!(ExitCode::from(&error), ExitCode::TooManyFiles);
        assert!(error.to_string().contains("1099511628288"), "{error}");
    }
}
