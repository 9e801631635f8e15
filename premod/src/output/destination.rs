//! Where the lines of a command go: stdout, or the FILE of `-o`.

use std::{
    fs::File,
    io,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use rustix::fs::{FileType, fstat, ftruncate};

use super::{
    OutputError,
    reader::Reader,
    writer::{Sink, Writer},
};

/// An opened output, of which nothing has been touched yet.
pub(crate) struct Destination {
    sink: Sink,
    name: String,
}

impl Destination {
    /// Opens `file`, or stdout if there is none. A new file is its owner's alone: names from private directories
    /// come to stand in it. What an old one holds stays until [`Destination::begin`].
    ///
    /// # Errors
    /// If it cannot be opened for writing.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self, OutputError> {
        let Some(path) = file else {
            return Ok(Self {
                sink: Sink::Stdout,
                name: "stdout".to_owned(),
            });
        };
        let name = path.display().to_string();
        let opened = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOCTTY)
            .open(path);
        match opened {
            Ok(file) => Ok(Self {
                sink: Sink::File(file),
                name,
            }),
            Err(source) => Err(OutputError::Write { to: name, source }),
        }
    }

    /// Refuses one of the files that the command is about.
    ///
    /// # Errors
    /// If it is one.
    pub(crate) fn must_not_be(&self, path: &Path) -> Result<(), OutputError> {
        let status = fstat(&self.sink).map_err(|error| self.failed(error.into()))?;
        // A device or a pipe may be many things at once.
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        match path.metadata() {
            Ok(other) if (other.dev(), other.ino()) == (status.st_dev, status.st_ino) => {
                Err(OutputError::IsInput {
                    to: self.name.clone(),
                    path: path.to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Watches over whoever reads.
    ///
    /// # Errors
    /// If there is somebody who cannot be watched.
    pub(crate) fn reader(&self) -> Result<Reader, OutputError> {
        let descriptor = self.sink.as_fd().try_clone_to_owned();
        descriptor
            .and_then(Reader::watch)
            .map_err(|source| self.failed(source))
    }

    /// Empties the file, and begins to write; with the name for complaints.
    ///
    /// # Errors
    /// If it cannot be emptied, or there can be no thread that writes.
    pub(crate) fn begin(self) -> Result<(Writer, String), OutputError> {
        if let Sink::File(file) = &self.sink
            && is_regular(file)
        {
            ftruncate(file, 0).map_err(|error| self.failed(error.into()))?;
        }
        let Self { sink, name } = self;
        match Writer::start(sink) {
            Ok(writer) => Ok((writer, name)),
            Err(source) => Err(OutputError::Write { to: name, source }),
        }
    }

    fn failed(&self, source: io::Error) -> OutputError {
        OutputError::Write {
            to: self.name.clone(),
            source,
        }
    }
}

fn is_regular(file: impl AsFd) -> bool {
    fstat(file).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::freeze::tests::Directory;

    #[tokio::test]
    async fn a_file_is_emptied_when_everything_begins_and_not_before() {
        let directory = Directory::new();
        let path = directory.file("log");
        let destination = Destination::open(Some(&path)).unwrap();
        drop(destination);
        assert_eq!(fs::read_to_string(&path).unwrap(), "log");
        let destination = Destination::open(Some(&path)).unwrap();
        let (writer, _) = destination.begin().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        writer.push(b"x\n");
        writer.drained().await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "x\n");
    }

    #[test]
    fn a_new_file_is_its_owners_alone() {
        let directory = Directory::new();
        let path = directory.path.join("new");
        Destination::open(Some(&path)).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_file_is_not_written_over_by_what_is_said_about_it() {
        let directory = Directory::new();
        let path = directory.file("db");
        let link = directory.path.join("link");
        fs::hard_link(&path, &link).unwrap();
        let destination = Destination::open(Some(&link)).unwrap();
        let error = destination.must_not_be(&path).unwrap_err();
        assert!(error.to_string().contains("link"), "{error}");
        assert!(destination.must_not_be(&directory.file("other")).is_ok());
        assert!(destination.must_not_be(Path::new("/no/such/file")).is_ok());
        let device = Destination::open(Some(Path::new("/dev/null"))).unwrap();
        assert!(device.must_not_be(Path::new("/dev/null")).is_ok());
    }
}
