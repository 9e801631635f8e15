//! Fetches the kernels of the test matrix: Debian's signed cloud images.

use std::{
    cmp::Reverse,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::apt::{self, PrivateApt};
use crate::{exec, paths};

/// The series that premod is tested on; `7` means the newest 7.x.
pub(crate) const SERIES: [&str; 4] = ["6.1", "6.12", "6.18", "7"];

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// What `uname -r` says.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// Where its modules lie, if it has any.
    pub(crate) modules: Option<PathBuf>,
    /// Its configuration, if it is known.
    pub(crate) config: Option<PathBuf>,
}

impl Kernel {
    /// The unpacked kernel of a series, if setup has fetched it.
    pub(crate) fn cached(series: &str) -> Option<Self> {
        let root = directory(series);
        let base = ["usr/lib/modules", "lib/modules"]
            .into_iter()
            .map(|below| root.join(below))
            .find(|base| base.is_dir())?;
        let modules = fs::read_dir(base).ok()?.flatten().next()?.path();
        let release = modules.file_name()?.to_str()?.to_owned();
        let boot = root.join("boot");
        let first = |paths: [PathBuf; 2]| paths.into_iter().find(|path| path.is_file());
        Some(Self {
            image: first([
                modules.join("vmlinuz"),
                boot.join(format!("vmlinuz-{release}")),
            ])?,
            config: first([
                modules.join("config"),
                boot.join(format!("config-{release}")),
            ]),
            modules: Some(modules),
            release,
        })
    }

    /// A kernel given as a file. Its modules are taken from where its release is installed.
    pub(crate) fn from_image(image: &Path) -> Result<Self> {
        let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
        let release = release_of_image(&bytes)
            .with_context(|| format!("{} is no bzImage", image.display()))?;
        let beside = image.parent().unwrap_or(Path::new(".")).join("modules");
        let installed =
            ["/lib/modules", "/usr/lib/modules"].map(|base| Path::new(base).join(&release));
        let modules = [beside]
            .into_iter()
            .chain(installed)
            .find(|path| path.is_dir());
        let config = Path::new("/boot").join(format!("config-{release}"));
        let config = config.is_file().then_some(config);
        Ok(Self {
            release,
            image: image.to_owned(),
            modules,
            config,
        })
    }
}

/// Where the kernel of a series lies.
fn directory(series: &str) -> PathBuf {
    paths::vm().join("kernels").join(series)
}

/// Fetches and unpacks the newest kernel of a series, and says which one that is.
pub(crate) fn fetch(apt: &PrivateApt, series: &str) -> Result<String> {
    let mut search = apt.command("apt-cache");
    search.args([
        "search",
        "--names-only",
        "^linux-(image|binary)-[0-9].*-cloud-amd64$",
    ]);
    let listing = exec::stdout(&mut search)?;
    let names = listing.lines().filter_map(|line| line.split(' ').next());
    let Some(packages) = choose(series, names) else {
        bail!("the Debian mirror has no cloud kernel of the series {series}");
    };
    let debs = paths::vm().join("debs").join(series);
    let partial = directory(&format!("{series}.partial"));
    for stale in [&debs, &partial] {
        if stale.exists() {
            fs::remove_dir_all(stale).with_context(|| format!("rm -r {}", stale.display()))?;
        }
    }
    for deb in apt.download_only(&packages, &debs)? {
        apt::unpack(&deb, &partial)?;
    }
    let unpacked = directory(series);
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).with_context(|| format!("rm -r {}", unpacked.display()))?;
    }
    fs::rename(&partial, &unpacked).context("cannot move the unpacked kernel to its place")?;
    fs::remove_dir_all(&debs).with_context(|| format!("rm -r {}", debs.display()))?;
    let kernel = Kernel::cached(series);
    Ok(kernel
        .with_context(|| format!("the packages {packages:?} hold no kernel"))?
        .release)
}

/// The packages of the newest kernel of `series` among `names`. From 6.19 on the image package
/// is an empty one that depends on three others.
fn choose<'a>(series: &str, names: impl Iterator<Item = &'a str>) -> Option<Vec<String>> {
    let mut found: Vec<(Vec<u32>, bool, &str)> = names
        .filter_map(|name| {
            let (split, version) = match name.strip_prefix("linux-binary-") {
                Some(version) => (true, version),
                None => (false, name.strip_prefix("linux-image-")?),
            };
            let numbers = numbers(version.strip_suffix("-cloud-amd64")?);
            // linux-image-6.12-cloud-amd64 is a meta package without a version of its own.
            let of_series = version.strip_prefix(series)?.starts_with('.');
            (of_series && numbers.len() > 2).then_some((numbers, split, version))
        })
        .collect();
    found.sort_by_key(|entry| Reverse((entry.0.clone(), entry.1)));
    let (_, split, version) = found.first()?;
    let parts: &[&str] = if *split {
        &["binary", "modules", "base"]
    } else {
        &["image"]
    };
    Some(
        parts
            .iter()
            .map(|part| format!("linux-{part}-{version}"))
            .collect(),
    )
}

/// The numbers in a version, to compare by.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// The release in the header of a bzImage (Documentation/arch/x86/boot.rst, kernel_version).
fn release_of_image(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes([*image.get(0x20e)?, *image.get(0x20f)?]);
    let text = image.get(usize::from(offset) + 0x200..)?;
    let end = text.iter().position(|byte| matches!(byte, 0 | b' '))?;
    String::from_utf8(text[..end].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 8] = [
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.12-cloud-amd64",
        "linux-image-6.12.95+deb13-cloud-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64",
        "linux-image-7.2.12+deb13-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
        "linux-binary-7.3.4+deb13-cloud-amd64",
    ];

    #[test]
    fn the_newest_version_of_a_series_is_chosen() {
        let choose = |series| choose(series, NAMES.into_iter());
        assert_eq!(choose("6.1").unwrap(), ["linux-image-6.1.0-56-cloud-amd64"]);
        assert_eq!(
            choose("6.12").unwrap(),
            ["linux-image-6.12.117+deb12-cloud-amd64"]
        );
        assert_eq!(choose("6.18"), None);
    }

    #[test]
    fn a_split_kernel_needs_three_packages() {
        let packages = choose("7", NAMES.into_iter()).unwrap();
        assert_eq!(
            packages,
            ["binary", "modules", "base"]
                .map(|part| format!("linux-{part}-7.3.4+deb13-cloud-amd64"))
        );
    }

    #[test]
    fn the_release_is_read_from_the_boot_header() {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x30c].copy_from_slice(b"6.12.1-x (a)");
        assert_eq!(release_of_image(&image).unwrap(), "6.12.1-x");
        assert_eq!(release_of_image(b"ELF"), None);
    }
}
