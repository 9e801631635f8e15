//! Directories that nobody but their owner can have put anything into.

use std::{fs::File, os::unix::fs::MetadataExt};

/// Whoever could write into the directory could pretend to be premod. Says why it is not this user's alone.
pub(super) fn check(directory: &File, user: u32) -> Result<(), &'static str> {
    let mode = mode_if_owned(directory, user)?;
    if mode & 0o022 != 0 {
        return Err("others than root may write into it");
    }
    Ok(())
}

/// Whether names in the directory stay what they are: others may add some if the sticky bit keeps them from renaming
/// those that are not theirs.
pub(super) fn check_names(directory: &File, user: u32) -> Result<(), &'static str> {
    let mode = mode_if_owned(directory, user)?;
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err("others than root may rename what is in it");
    }
    Ok(())
}

fn mode_if_owned(directory: &File, user: u32) -> Result<u32, &'static str> {
    let metadata = directory.metadata().map_err(|_| "it cannot be looked at")?;
    if metadata.uid() != user {
        return Err("it is not root's own");
    }
    Ok(metadata.mode())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn who_could_write_is_not_trusted() {
        let scratch = crate::freeze::tests::Directory::new();
        let directory = scratch.path.clone();
        let own = File::open(&directory).unwrap().metadata().unwrap().uid();
        let with = |mode| {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            File::open(&directory).unwrap()
        };
        assert!(check(&with(0o700), own).is_ok() && check(&with(0o755), own).is_ok());
        assert!(check(&with(0o700), own + 1).is_err());
        assert!(check(&with(0o770), own).is_err() && check(&with(0o1777), own).is_err());
        assert!(check_names(&with(0o1777), own).is_ok());
        assert!(check_names(&with(0o777), own).is_err());
    }
}
