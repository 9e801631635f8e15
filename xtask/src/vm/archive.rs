//! Writes cpio archives for the initramfs. The kernel unpacks any number of them, one after the
//! other, so what is the same for every run is made once and kept.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

/// An archive that is being written. It gets its name when it is complete.
pub(crate) struct Archive {
    out: BufWriter<File>,
    path: PathBuf,
    inode: u32,
}

impl Archive {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(partial(path));
        let file = file.with_context(|| format!("cannot create {}", partial(path).display()))?;
        Ok(Self {
            out: BufWriter::new(file),
            path: path.to_owned(),
            inode: 0,
        })
    }

    pub(crate) fn directory(&mut self, name: &str, mode: u32) -> Result<()> {
        self.entry(name, ModeFileType::Directory, mode, &[])
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        self.entry(name, ModeFileType::Symlink, 0o777, target.as_bytes())
    }

    pub(crate) fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entry(name, ModeFileType::Regular, mode, bytes)
    }

    /// Adds the directories that lead to `name`.
    pub(crate) fn parents(&mut self, name: &str) -> Result<()> {
        for (end, _) in name.match_indices('/').filter(|(end, _)| *end > 0) {
            self.directory(&name[..end], 0o755)?;
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, kind: ModeFileType, mode: u32, bytes: &[u8]) -> Result<()> {
        // An inode number of its own, because equal ones would be hard links.
        self.inode += 1;
        let length = u32::try_from(bytes.len()).with_context(|| format!("{name} is too large"))?;
        let entry = Builder::new(name)
            .ino(self.inode)
            .mode(mode)
            .set_mode_file_type(kind);
        let mut writer = entry.write(&mut self.out, length);
        writer
            .write_all(bytes)
            .and_then(|()| writer.finish().map(drop))
            .with_context(|| format!("cannot add {name} to {}", self.path.display()))
    }

    /// Writes the end of the archive and gives the file its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        trailer(&mut self.out)
            .and_then(io::Write::flush)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        fs::rename(partial(&self.path), &self.path)
            .with_context(|| format!("cannot rename {}", self.path.display()))
    }
}

fn partial(path: &Path) -> PathBuf {
    path.with_extension("partial")
}
