//! The two ways in which setup uses apt: installing packages on this machine, and fetching
//! packages of several Debian releases for the guest through a state directory of its own, which
//! needs no root and leaves the machine's apt as it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{exec, paths};

/// The releases whose kernels and tools the guest is made of, oldest first.
const RELEASES: [&str; 2] = ["bookworm", "trixie"];

/// Every release name a Debian mirror may be configured with.
const DEBIAN: [&str; 7] = [
    "bookworm",
    "trixie",
    "forky",
    "oldstable",
    "stable",
    "testing",
    "sid",
];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The Debian mirrors this machine's apt is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirrors {
    /// The release the machine itself follows.
    pub(crate) release: String,
    main: String,
    security: Option<String>,
}

impl Mirrors {
    /// Asks apt what it would fetch in an update: unlike `apt-get indextargets` it answers this
    /// even when it has never been updated.
    pub(crate) fn find() -> Result<Self> {
        let mut command = Command::new("apt-get");
        command.args(["update", "--print-uris", "-o", "Debug::NoLocking=true"]);
        let output = command.output().context(
            "this machine has no apt, which brings the VM's kernels and tools: without it install \
             bpf-linker and rustup's nightly with rust-src, and only building works",
        )?;
        Self::parse(&String::from_utf8_lossy(&output.stdout))
            .context("apt has no Debian mirror among its sources")
    }

    fn parse(uris: &str) -> Option<Self> {
        // 'MIRROR/dists/RELEASE/main/binary-amd64/Packages.xz' FILE SIZE
        let suites: Vec<(&str, &str)> = uris
            .lines()
            .filter_map(|line| {
                let (mirror, rest) = line.strip_prefix('\'')?.split_once("dists/")?;
                let (release, _) = rest.split_once("/main/binary-amd64/")?;
                Some((release, mirror))
            })
            .collect();
        let (release, main) = suites
            .iter()
            .find(|(release, _)| DEBIAN.contains(release))?;
        let security = suites.iter().find(|(release, _)| {
            release
                .strip_suffix("-security")
                .is_some_and(|name| DEBIAN.contains(&name))
        });
        Some(Self {
            release: (*release).to_owned(),
            main: (*main).to_owned(),
            security: security.map(|(_, mirror)| (*mirror).to_owned()),
        })
    }

    /// Source lines for `release`, its backports and its security updates.
    fn sources(&self, release: &str) -> String {
        let options = if Path::new(KEYRING).exists() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let mut lines = format!("deb {options}{} {release} main\n", self.main);
        for suite in ["-updates", "-backports"] {
            lines += &format!("deb {options}{} {release}{suite} main\n", self.main);
        }
        if let Some(security) = &self.security {
            lines += &format!("deb {options}{security} {release}-security main\n");
        }
        lines
    }
}

/// An apt with sources and state of its own.
pub(crate) struct PrivateApt {
    directory: PathBuf,
}

impl PrivateApt {
    /// For packages that are unpacked for the guest: nothing counts as installed.
    pub(crate) fn for_guest() -> Result<Self> {
        let mirrors = Mirrors::find()?;
        let sources: String = RELEASES.map(|release| mirrors.sources(release)).concat();
        let directory = paths::vm().join("apt");
        let status = directory.join("status");
        // The oldest release goes first, with its security updates: a plain name would leave those
        // out.
        let release = format!("/^{}(-security)?$/", RELEASES[0]);
        let apt = Self::at(directory, &sources, &status, &release)?;
        fs::write(status, "").context("cannot write apt's empty status")?;
        Ok(apt)
    }

    /// For packages that are installed on this machine: its own release and that one's backports,
    /// nothing newer, so that nothing else gets upgraded along with them.
    pub(crate) fn for_host() -> Result<Self> {
        let mirrors = Mirrors::find()?;
        Self::at(
            paths::vm().join("apt-host"),
            &mirrors.sources(&mirrors.release),
            Path::new("/var/lib/dpkg/status"),
            "",
        )
    }

    fn at(directory: PathBuf, sources: &str, status: &Path, release: &str) -> Result<Self> {
        // Only where nothing is installed may it go without dpkg's lock.
        let unlocked = status.starts_with(&directory);
        for part in [
            "state/lists/partial",
            "cache/archives/partial",
            "preferences.d",
        ] {
            let part = directory.join(part);
            fs::create_dir_all(&part).with_context(|| format!("mkdir {}", part.display()))?;
        }
        let here = directory.display();
        // The clear directives and the cache names undo what container images configure: hooks
        // that remove downloads, and no package cache.
        let configuration = format!(
            "#clear APT::Update;\n#clear DPkg::Post-Invoke;\n\
             Dir::State \"{here}/state\";\nDir::State::status \"{}\";\n\
             Dir::Cache \"{here}/cache\";\nDir::Cache::pkgcache \"pkgcache.bin\";\n\
             Dir::Cache::srcpkgcache \"\";\nDir::Etc::sourcelist \"{here}/sources.list\";\n\
             Dir::Etc::sourceparts \"-\";\nDir::Etc::preferences \"-\";\n\
             Dir::Etc::preferencesparts \"{here}/preferences.d\";\nAPT::Default-Release \"{release}\";\n\
             APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"\";\n\
             APT::Architecture \"amd64\";\n\
             Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             Acquire::Retries \"3\";\nDebug::NoLocking \"{unlocked}\";\n",
            status.display()
        );
        fs::write(directory.join("apt.conf"), configuration).context("cannot write apt.conf")?;
        fs::write(directory.join("sources.list"), sources).context("cannot write sources.list")?;
        Ok(Self { directory })
    }

    /// An apt command that uses this state.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.directory.join("apt.conf"));
        non_interactive(&mut command);
        command
    }

    /// Fetches the package lists. A suite that the mirror does not have (backports end one day)
    /// is no error here: what matters is whether the packages are found.
    pub(crate) fn update(&self) -> Result<()> {
        let mut command = self.command("apt-get");
        // By itself apt takes an unreachable mirror for a warning.
        command.args(["update", "-q", "-o", "APT::Update::Error-Mode=any"]);
        let result = exec::output(&mut command);
        let lists = self.directory.join("state/lists");
        let fetched = fs::read_dir(&lists).is_ok_and(|entries| {
            entries
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().contains("Packages"))
        });
        if fetched { Ok(()) } else { result.map(drop) }
    }

    /// Whether the releases have all of `packages`.
    pub(crate) fn has(&self, packages: &[&str]) -> bool {
        let mut command = self.command("apt-cache");
        command.args(["policy"]).args(packages);
        exec::stdout(&mut command).is_ok_and(|policy| {
            policy.matches("Candidate: ").count() == packages.len()
                && !policy.contains("Candidate: (none)")
        })
    }

    /// Resolves `packages` with everything they depend on, fetches them and returns the files.
    pub(crate) fn download(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let archives = self.directory.join("cache/archives");
        let mut command = self.command("apt-get");
        command
            .args(["install", "--download-only", "--yes", "-q"])
            .args(packages);
        exec::output(&mut command)?;
        debs(&archives)
    }

    /// Fetches `packages` with everything they depend on and unpacks them into `root`: but for those whose names begin with
    /// one of `left_out`, and without what is below one of `pruned`.
    pub(crate) fn unpack_into(
        &self,
        root: &Path,
        packages: &[&str],
        left_out: &[&str],
        pruned: &[&str],
    ) -> Result<()> {
        for deb in self.download(packages)? {
            let name = deb.file_name().unwrap_or_default().to_string_lossy();
            if !left_out.iter().any(|prefix| name.starts_with(prefix)) {
                unpack(&deb, root)?;
            }
        }
        for pruned in pruned {
            let path = root.join(pruned);
            if path.exists() {
                fs::remove_dir_all(&path).with_context(|| format!("rm -r {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Removes the package files, which are not needed again.
    pub(crate) fn clean(&self) -> Result<()> {
        exec::output(self.command("apt-get").arg("clean")).map(drop)
    }

    /// Fetches exactly `packages` into `directory` and returns the files.
    pub(crate) fn download_only(
        &self,
        packages: &[String],
        directory: &Path,
    ) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(directory).with_context(|| format!("mkdir {}", directory.display()))?;
        exec::output(
            self.command("apt-get")
                .args(["download", "-q"])
                .args(packages)
                .current_dir(directory),
        )?;
        debs(directory)
    }
}

/// The package files in a directory.
fn debs(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    found.sort();
    if found.is_empty() {
        bail!("apt left no package in {}", directory.display());
    }
    Ok(found)
}

/// Unpacks a package file.
pub(crate) fn unpack(deb: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("mkdir {}", into.display()))?;
    exec::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(into)).map(drop)
}

/// Keeps the package tools from asking questions.
pub(crate) fn non_interactive(command: &mut Command) {
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_read_from_what_apt_would_fetch() {
        let uris = "\
            'http://mirror.test/debian/dists/trixie/InRelease' m_InRelease 0 \n\
            'http://other.test/dists/nodistro/main/binary-amd64/Packages.xz' o_Packages 0 \n\
            'http://mirror.test/debian/dists/trixie/main/binary-amd64/Packages.xz' m_Packages 0 \n\
            'http://mirror.test/debian-security/dists/trixie-security/main/binary-amd64/Packages.xz' s 0 \n";
        let mirrors = Mirrors::parse(uris).unwrap();
        assert_eq!(mirrors.release, "trixie");
        let sources = mirrors.sources("bookworm");
        assert!(sources.contains("http://mirror.test/debian/ bookworm-backports main\n"));
        assert!(sources.contains("http://mirror.test/debian-security/ bookworm-security main\n"));
    }

    #[test]
    fn a_machine_without_debian_sources_has_no_mirror() {
        let ubuntu = "'http://m.test/ubuntu/dists/noble/main/binary-amd64/Packages.xz' m 0 \n";
        assert_eq!(Mirrors::parse(ubuntu), None);
        assert_eq!(Mirrors::parse(""), None);
    }
}
