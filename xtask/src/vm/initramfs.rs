//! Puts one run's initramfs together: the cached tools, the cached modules, and what is this
//! run's own.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result};
use premod_guest::HOME;

use super::{archive::Archive, modules::Modules};
use crate::setup::guest;

/// A file or directory of the host that the guest gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
}

impl FromStr for Copied {
    type Err = String;

    /// `HOST[:GUEST]`; without GUEST it lands in root's home, where COMMAND starts.
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, guest) = match text.split_once(':') {
            Some((host, guest)) if guest.starts_with('/') => (host, guest.to_owned()),
            Some((_, guest)) => return Err(format!("{guest} is not an absolute path")),
            None => {
                let name = Path::new(text)
                    .file_name()
                    .ok_or(format!("{text} has no name"))?;
                (text, at_home(&name.to_string_lossy()))
            }
        };
        Ok(Self {
            host: PathBuf::from(host),
            guest,
        })
    }
}

/// A file's path in the guest, if it lies where COMMAND starts.
pub(crate) fn at_home(name: &str) -> String {
    format!("{HOME}/{name}")
}

/// What the guest is told to do.
pub(crate) struct Instructions<'a> {
    pub(crate) command: &'a str,
    pub(crate) environment: &'a [(String, String)],
    pub(crate) filesystems: Vec<&'static str>,
    pub(crate) modules: Vec<String>,
    pub(crate) terminal: bool,
}

/// Writes the initramfs to `path`; `directory` is the run's own.
pub(crate) fn write(
    path: &Path,
    directory: &Path,
    modules: &Modules,
    instructions: &Instructions<'_>,
    copied: &[Copied],
) -> Result<()> {
    let own = directory.join("run.cpio");
    write_own(&own, instructions, copied)?;
    let mut out =
        File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    for part in [
        Some(&guest::archive()),
        modules.archive.as_ref(),
        Some(&own),
    ]
    .into_iter()
    .flatten()
    {
        // An archive's length is a multiple of four, which is all the kernel asks for.
        File::open(part)
            .and_then(|mut part| io::copy(&mut part, &mut out))
            .with_context(|| format!("cannot append {} to the initramfs", part.display()))?;
    }
    fs::remove_file(&own).with_context(|| format!("rm {}", own.display()))
}

fn write_own(path: &Path, instructions: &Instructions<'_>, copied: &[Copied]) -> Result<()> {
    let mut archive = Archive::create(path)?;
    let below = premod_guest::INSTRUCTIONS.trim_start_matches('/');
    let environment: String = instructions
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}\0"))
        .collect();
    archive.directory(below, 0o755)?;
    for (name, content) in [
        ("command", instructions.command),
        ("environment", &environment),
        ("filesystems", &instructions.filesystems.join("\n")),
        ("modules", &instructions.modules.join("\n")),
    ] {
        archive.file(&format!("{below}/{name}"), 0o644, content.as_bytes())?;
    }
    if instructions.terminal {
        archive.file(&format!("{below}/terminal"), 0o644, b"")?;
    }
    for copied in copied {
        let name = copied.guest.trim_start_matches('/');
        archive.parents(name)?;
        add(&mut archive, &copied.host, name)?;
    }
    archive.finish()
}

/// Adds a file, a link or a directory with all it holds.
fn add(archive: &mut Archive, host: &Path, name: &str) -> Result<()> {
    let shown = || format!("cannot copy {}", host.display());
    let metadata = fs::metadata(host).with_context(shown)?;
    if !metadata.is_dir() {
        let bytes = fs::read(host).with_context(shown)?;
        return archive.file(name, metadata.permissions().mode() & 0o7777, &bytes);
    }
    archive.directory(name, 0o755)?;
    let mut entries: Vec<OsString> = fs::read_dir(host)
        .with_context(shown)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()
        .with_context(shown)?;
    entries.sort();
    for entry in entries {
        add(
            archive,
            &host.join(&entry),
            &format!("{name}/{}", entry.to_string_lossy()),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_names_its_place_in_the_guest() {
        let copied: Copied = "target/x:/usr/bin/y".parse().unwrap();
        assert_eq!(
            (copied.host.to_str().unwrap(), copied.guest.as_str()),
            ("target/x", "/usr/bin/y")
        );
        assert_eq!("dir/x".parse::<Copied>().unwrap().guest, at_home("x"));
        assert_eq!(
            (HOME, at_home("x").strip_prefix(HOME)),
            ("/root", Some("/x"))
        );
        assert!("x:relative".parse::<Copied>().is_err());
        assert!("/".parse::<Copied>().is_err());
    }
}
