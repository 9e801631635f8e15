//! The files that a command is about: given one by one, or in a list.

use std::{
    ffi::OsString,
    fs, io,
    io::Read,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use crate::exit_code::{ExitCode, Failed};

/// What was given.
#[derive(Debug, Default)]
pub struct Names {
    /// Those on the command line.
    pub given: Vec<PathBuf>,
    /// Where others stand.
    pub list: Option<List>,
}

/// A list of names.
#[derive(Debug)]
pub struct List {
    /// The file; `-` for stdin.
    pub file: PathBuf,
    /// Names end with NUL instead of newline.
    pub null: bool,
}

impl Names {
    /// Whether they have to be read from stdin.
    #[must_use]
    pub fn are_on_stdin(&self) -> bool {
        self.list.as_ref().is_some_and(List::is_stdin)
    }

    /// The file that is read, if there is a list.
    pub(super) fn source(&self) -> Option<&Path> {
        let list = self.list.as_ref()?;
        Some(match list.is_stdin() {
            true => Path::new("/dev/stdin"),
            false => &list.file,
        })
    }

    /// All names, those of the list last.
    ///
    /// # Errors
    /// If the list cannot be read, or names nothing.
    pub fn read(&self) -> Result<Vec<PathBuf>, Failed> {
        let mut names = self.given.clone();
        if let Some(list) = &self.list {
            names.extend(list.read()?);
        }
        Ok(names)
    }
}

impl List {
    fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    fn read(&self) -> Result<Vec<PathBuf>, Failed> {
        let mut bytes = Vec::new();
        let read = if self.is_stdin() {
            io::stdin().read_to_end(&mut bytes).map(|_| bytes)
        } else {
            fs::read(&self.file)
        };
        let name = if self.is_stdin() {
            "on stdin".to_owned()
        } else {
            self.file.display().to_string()
        };
        let failed = |why: &str| Failed {
            code: ExitCode::BadPath,
            sentence: format!("cannot use the list of files {name}: {why}"),
        };
        let bytes = read.map_err(|error| failed(&error.to_string()))?;
        if !self.null && bytes.contains(&0) {
            return Err(failed(
                "it has NUL bytes in it; say --null if names end with them",
            ));
        }
        let names = parse(&bytes, if self.null { 0 } else { b'\n' });
        // Whoever gives a list does not mean every file there is.
        if names.is_empty() {
            return Err(failed("it names none"));
        }
        Ok(names)
    }
}

fn parse(bytes: &[u8], end: u8) -> Vec<PathBuf> {
    bytes
        .split(|&byte| byte == end)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()).into())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freeze::tests::Directory;

    fn names(content: &[u8], null: bool) -> Result<Vec<PathBuf>, String> {
        let directory = Directory::new();
        let file = directory.file("list");
        fs::write(&file, content).unwrap();
        let given = vec!["first".into()];
        let list = Some(List { file, null });
        let names = Names { given, list }.read();
        names.map_err(|failed| failed.sentence)
    }

    #[test]
    fn names_end_with_newlines_or_nul() {
        let two = [PathBuf::from("first"), "a b".into(), " c\\".into()];
        assert_eq!(names(b"a b\n c\\\n", false).unwrap(), two);
        assert_eq!(names(b"a b\n\n c\\", false).unwrap(), two);
        assert_eq!(names(b"a b\0 c\\\0", true).unwrap(), two);
        assert_eq!(
            names(b"a\nb\0", true).unwrap(),
            [PathBuf::from("first"), "a\nb".into()]
        );
        assert!(names(b"a\0b\0", false).unwrap_err().contains("--null"));
        assert!(names(b"\n", false).unwrap_err().contains("it names none"));
    }

    #[test]
    fn a_list_that_is_not_there_is_named() {
        let file = PathBuf::from("/no/such/list");
        let list = Some(List { file, null: false });
        let given = Vec::new();
        let failed = Names { given, list }.read().unwrap_err();
        assert!(
            failed.sentence.contains("/no/such/list: No such file"),
            "{}",
            failed.sentence
        );
    }
}
