//! What `--exclude` leaves out.
//!
//! Not by a name that whoever modifies a file has chosen: a bind mount in a mount namespace of his own gives it any
//! path, a file mounted on another one any name, and a second link any other. An event too many does no harm.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::{Error, events};

/// Patterns, by how they are decided.
#[derive(Clone, Debug, Default)]
pub struct Exclude {
    places: Vec<PathBuf>,
    paths: GlobSet,
    names: GlobSet,
}

impl Exclude {
    /// Sorts the patterns. The path of a directory that is there, with or without `/**` behind it, is a place. Every
    /// other pattern is compiled: `*` and `?` stay within a component, `**` crosses them; without a slash it is about
    /// the file's own name.
    ///
    /// # Errors
    /// If one is malformed.
    pub fn new(patterns: &[String]) -> Result<Self, Error> {
        let mut places = Vec::new();
        let (mut paths, mut names) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let directory = directory(pattern);
            // One that is there is meant, even if its name looks like a pattern.
            if let Some(place) = directory.filter(|place| Path::new(place).is_dir()) {
                places.push(place.into());
            } else if let Some(later) = directory.filter(|path| is_plain(path)) {
                paths.add(glob(pattern, later)?);
                paths.add(glob(pattern, &format!("{later}/**"))?);
            } else if !pattern.contains('/') {
                names.add(glob(pattern, pattern)?);
            } else if pattern.starts_with(['/', '*', '?', '[', '{', '\\']) {
                paths.add(glob(pattern, pattern)?);
            } else {
                return Err(Error::BadValue(format!(
                    "--exclude {pattern}: no path begins like this; begin with / or **/"
                )));
            }
        }
        Ok(Self {
            places,
            paths: built(&paths)?,
            names: built(&names)?,
        })
    }

    /// The directories that are left out in the kernel, with everything below them.
    #[must_use]
    pub fn places(&self) -> &[PathBuf] {
        &self.places
    }

    /// Whether a file that lies here, as far as the path tells, is left out.
    #[must_use]
    pub fn leaves_out(&self, path: &events::Path) -> bool {
        if path.several_names || self.paths.is_empty() && self.names.is_empty() {
            return false;
        }
        let whole = &path.bytes[..];
        let name = whole.rsplit(|&byte| byte == b'/').next().unwrap_or(whole);
        let is_here = !path.foreign && !path.in_filesystem && !path.cut;
        let is_its_own = !(path.foreign && path.mount_point);
        is_here && matches(&self.paths, whole)
            || is_its_own && !name.is_empty() && matches(&self.names, name)
    }
}

fn matches(set: &GlobSet, text: &[u8]) -> bool {
    set.is_match(OsStr::from_bytes(text))
}

/// Whether a path is nothing but that, and no pattern.
fn is_plain(path: &str) -> bool {
    !path.contains(['*', '?', '[', ']', '{', '}', '\\'])
}

/// The path that the pattern is, if it is a whole one, or has `/**` behind it; without slashes at its end.
fn directory(pattern: &str) -> Option<&str> {
    let path = pattern.strip_suffix("/**").unwrap_or(pattern);
    let trimmed = path.trim_end_matches('/');
    match trimmed {
        "" if pattern.starts_with('/') => Some("/"),
        _ => trimmed.starts_with('/').then_some(trimmed),
    }
}

fn glob(pattern: &str, text: &str) -> Result<Glob, Error> {
    let glob = GlobBuilder::new(text).literal_separator(true).build();
    glob.map_err(|error| {
        Error::BadValue(format!(
            "--exclude {pattern}: not a pattern: {}",
            error.kind()
        ))
    })
}

fn built(set: &GlobSetBuilder) -> Result<GlobSet, Error> {
    set.build()
        .map_err(|error| Error::BadValue(format!("--exclude: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::text::sample;

    fn exclude(pattern: &str) -> Exclude {
        Exclude::new(&[pattern.to_owned()]).unwrap()
    }

    #[test]
    fn patterns_are_about_names_or_whole_paths() {
        let excluded = |pattern: &str| exclude(pattern).leaves_out(&sample().path);
        assert!(excluded("heap") && excluded("he*") && excluded("/da*/**"));
        assert!(excluded("**/db/heap") && excluded("/data/db/heap"));
        assert!(!excluded("/da*/*") && !excluded("data"));
        for wrong in ["[", "data/**", "./heap"] {
            let error = Exclude::new(&[wrong.to_owned()]).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_directory_that_is_there_is_a_place() {
        for pattern in ["/usr/bin", "/usr/bin/", "/usr/bin/**"] {
            assert_eq!(exclude(pattern).places(), [Path::new("/usr/bin")]);
            assert!(exclude(pattern).paths.is_empty());
        }
        for pattern in ["/", "/**"] {
            assert_eq!(exclude(pattern).places(), [Path::new("/")]);
        }
        let parent = crate::freeze::tests::Directory::new();
        let odd = parent.path.join("a[b]*");
        std::fs::create_dir(&odd).unwrap();
        for behind in ["", "/**"] {
            let pattern = format!("{}{behind}", odd.display());
            assert_eq!(exclude(&pattern).places(), [odd.as_path()]);
        }
        // One that is not there yet is known by its name only.
        for pattern in ["/data/db", "/data/db/**", "/data/", "/data/**"] {
            assert_eq!(exclude(pattern).places(), [""; 0].map(Path::new));
            assert!(exclude(pattern).leaves_out(&sample().path), "{pattern}");
        }
        for pattern in ["/usr/*", "/usr/b[i]n", "**", "/etc/passwd"] {
            assert_eq!(exclude(pattern).places(), [""; 0].map(Path::new));
        }
    }

    #[test]
    fn a_name_that_others_have_chosen_leaves_nothing_out() {
        let leaves_out = |pattern: &str, change: fn(&mut events::Path)| {
            let mut path = sample().path;
            change(&mut path);
            exclude(pattern).leaves_out(&path)
        };
        for change in [
            |path: &mut events::Path| path.foreign = true,
            |path: &mut events::Path| path.in_filesystem = true,
            |path: &mut events::Path| path.cut = true,
        ] {
            assert!(!leaves_out("/data/**", change));
            assert!(!leaves_out("/data/*/heap", change));
            assert!(leaves_out("heap", change));
        }
        assert!(leaves_out("heap", |path| path.mount_point = true));
        assert!(!leaves_out("heap", |path| {
            path.mount_point = true;
            path.foreign = true;
        }));
        for pattern in ["heap", "/data/**"] {
            assert!(!leaves_out(pattern, |path| path.several_names = true));
        }
        assert!(!leaves_out("*", |path| path.bytes = bytes::Bytes::new()));
    }
}
