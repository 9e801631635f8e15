//! Error numbers that a user can choose for denied writers.

use std::fmt;

/// An errno, 1 to 133.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u32);

/// What a program can be expected to make sense of when it writes.
const NAMED: [(&str, i32); 12] = [
    ("EBUSY", libc::EBUSY),
    ("EAGAIN", libc::EAGAIN),
    ("EACCES", libc::EACCES),
    ("EPERM", libc::EPERM),
    ("EROFS", libc::EROFS),
    ("ETXTBSY", libc::ETXTBSY),
    ("ENOSPC", libc::ENOSPC),
    ("EDQUOT", libc::EDQUOT),
    ("EFBIG", libc::EFBIG),
    ("EIO", libc::EIO),
    ("EINTR", libc::EINTR),
    ("ENOLCK", libc::ENOLCK),
];

/// The highest errno of Linux (`EHWPOISON`).
const HIGHEST: u32 = 133;

impl Errno {
    /// Understands a name such as EROFS, or a number.
    ///
    /// # Errors
    /// If it is neither; with a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let named = NAMED
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        if let Some(&(_, number)) = named {
            return Ok(Self(number as u32));
        }
        match text.parse() {
            Ok(number @ 1..=HIGHEST) => Ok(Self(number)),
            _ => {
                let names: Vec<_> = NAMED.iter().map(|&(name, _)| name).collect();
                Err(format!(
                    "not an errno; give a number up to {HIGHEST}, or one of {}",
                    names.join(", ")
                ))
            }
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMED.iter().find(|&&(_, number)| number as u32 == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood() {
        assert_eq!(Errno::parse("EROFS"), Ok(Errno(30)));
        assert_eq!(Errno::parse("erofs"), Ok(Errno(30)));
        assert_eq!(
            Errno::parse("5").map(|errno| errno.to_string()),
            Ok("EIO".to_owned())
        );
        for wrong in ["", "0", "-1", "134", "513", "EWHAT"] {
            assert!(Errno::parse(wrong).is_err(), "{wrong}");
        }
    }
}
