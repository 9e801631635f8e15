//! Which kernel modules the guest gets and in which order they are loaded. Debian ships no
//! modules.dep (depmod makes it on the machine where a kernel is installed), so the dependencies
//! are read from the modules themselves.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

use super::archive::Archive;
use crate::{paths, setup::kernels::Kernel};

/// Loaded at every boot, where the kernel does not have them built in.
pub(crate) const BOOT: [&str; 3] = ["virtio_pci", "virtio_console", "virtio_blk"];

/// Brought along for `modprobe`, and for what the kernel asks for by itself. The algorithms are
/// found by name at run time, so no module says that it needs them.
const EXTRA: [&str; 17] = [
    "xfs",
    "btrfs",
    "overlay",
    "loop",
    "fuse",
    "nd_e820",
    "nd_pmem",
    "nfsd",
    "nfsv4",
    "nvmet",
    "target_core_file",
    "crc32c_generic",
    "crc32c_intel",
    "crc32c_cryptoapi",
    "xxhash_generic",
    "blake2b_generic",
    "sha256_generic",
];

/// Counted up when the archive's form changes.
const REVISION: u32 = 5;

/// What a module says about itself.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Info {
    depends: Vec<String>,
    aliases: Vec<String>,
}

impl Info {
    /// Reads the .modinfo section's content: NUL-terminated `key=value` strings.
    fn parse(section: &[u8]) -> Self {
        let mut info = Self::default();
        for entry in section.split(|byte| *byte == 0) {
            let Ok(entry) = std::str::from_utf8(entry) else {
                continue;
            };
            match entry.split_once('=') {
                Some(("depends", list)) => {
                    let names = list.split(',').filter(|name| !name.is_empty());
                    info.depends.extend(names.map(canonical));
                }
                Some(("alias", alias)) => info.aliases.push(alias.to_owned()),
                _ => {}
            }
        }
        info
    }
}

/// A module's name as the kernel spells it: a dash in a file's name is an underscore.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The archive with a kernel's modules, and what it holds.
pub(crate) struct Modules {
    release: String,
    dependencies: BTreeMap<String, Vec<String>>,
    /// The archive; `None` for a kernel without modules.
    pub(crate) archive: Option<PathBuf>,
}

impl Modules {
    /// Makes the archive of a kernel's modules, or takes the one that was made before.
    pub(crate) fn of(kernel: &Kernel) -> Result<Self> {
        let release = kernel.release.clone();
        let Some(directory) = &kernel.modules else {
            return Ok(Self {
                release,
                dependencies: BTreeMap::new(),
                archive: None,
            });
        };
        let cache = paths::vm().join("modules");
        fs::create_dir_all(&cache).with_context(|| format!("mkdir {}", cache.display()))?;
        let archive = cache.join(format!("{release}-{REVISION}.cpio"));
        let index = archive.with_extension("json");
        if archive.is_file()
            && let Ok(text) = fs::read_to_string(&index)
        {
            let dependencies = serde_json::from_str(&text).context("the module index is broken")?;
            return Ok(Self {
                release,
                dependencies,
                archive: Some(archive),
            });
        }
        let mut files = HashMap::new();
        find_modules(&directory.join("kernel"), &mut files)?;
        let found = read_closure(&files)?;
        write_archive(&archive, &release, &found)?;
        let dependencies: BTreeMap<_, _> = found
            .into_iter()
            .map(|(name, (info, _))| (name, info.depends))
            .collect();
        fs::write(&index, serde_json::to_string(&dependencies)?)
            .with_context(|| format!("cannot write {}", index.display()))?;
        Ok(Self {
            release,
            dependencies,
            archive: Some(archive),
        })
    }

    /// The guest's paths of `roots` and of what they need, in loading order. What is not there is
    /// built into the kernel, or missed later by whoever needs it.
    pub(crate) fn to_load(&self, roots: &[&str]) -> Result<Vec<String>> {
        let order = loading_order(&self.dependencies, roots)?;
        Ok(order
            .iter()
            .map(|name| guest_path(&self.release, name))
            .collect())
    }
}

fn guest_path(release: &str, name: &str) -> String {
    format!("/usr/lib/modules/{release}/{name}.ko")
}

/// Collects the module files below `directory` by name.
fn find_modules(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", directory.display()))?
            .path();
        if path.is_dir() {
            find_modules(&path, files)?;
        } else if let Some((name, _)) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.split_once(".ko"))
        {
            files.insert(canonical(name), path.clone());
        }
    }
    Ok(())
}

/// The wanted modules and all that they depend on, with their decompressed content.
fn read_closure(files: &HashMap<String, PathBuf>) -> Result<BTreeMap<String, (Info, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    let mut wanted: Vec<String> = BOOT
        .iter()
        .chain(&EXTRA)
        .map(|name| canonical(name))
        .collect();
    while let Some(name) = wanted.pop() {
        let Some(path) = files.get(&name) else {
            continue;
        };
        if found.contains_key(&name) {
            continue;
        }
        let bytes = read_module(path)?;
        let info = read_info(&bytes).with_context(|| format!("{}", path.display()))?;
        wanted.extend(info.depends.iter().cloned());
        found.insert(name, (info, bytes));
    }
    Ok(found)
}

/// A module's content; the guest has nothing to decompress it with.
fn read_module(path: &Path) -> Result<Vec<u8>> {
    let shown = || format!("cannot read {}", path.display());
    let mut bytes = fs::read(path).with_context(shown)?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => {}
        Some("xz") => {
            let mut plain = Vec::new();
            liblzma::read::XzDecoder::new(bytes.as_slice())
                .read_to_end(&mut plain)
                .with_context(shown)?;
            bytes = plain;
        }
        _ => bail!(
            "{} is compressed in a way that is not known here",
            path.display()
        ),
    }
    Ok(bytes)
}

fn read_info(module: &[u8]) -> Result<Info> {
    let file = object::File::parse(module).context("not an ELF file")?;
    let section = file
        .section_by_name(".modinfo")
        .context("has no .modinfo section")?;
    Ok(Info::parse(
        section.data().context("has a broken .modinfo section")?,
    ))
}

/// `roots` and their dependencies, each after what it depends on.
fn loading_order(
    dependencies: &BTreeMap<String, Vec<String>>,
    roots: &[&str],
) -> Result<Vec<String>> {
    fn visit(
        name: &str,
        dependencies: &BTreeMap<String, Vec<String>>,
        path: &mut Vec<String>,
        order: &mut Vec<String>,
    ) -> Result<()> {
        let Some(needed) = dependencies.get(name) else {
            return Ok(());
        };
        if order.iter().any(|loaded| loaded == name) {
            return Ok(());
        }
        if path.iter().any(|above| above == name) {
            bail!("the modules {} depend on each other", path.join(", "));
        }
        path.push(name.to_owned());
        for needed in needed {
            visit(needed, dependencies, path, order)?;
        }
        path.pop();
        order.push(name.to_owned());
        Ok(())
    }
    let mut order = Vec::new();
    for root in roots {
        visit(&canonical(root), dependencies, &mut Vec::new(), &mut order)?;
    }
    Ok(order)
}

/// Writes the modules and the two indexes that busybox's modprobe reads.
fn write_archive(
    path: &Path,
    release: &str,
    modules: &BTreeMap<String, (Info, Vec<u8>)>,
) -> Result<()> {
    let dependencies: BTreeMap<String, Vec<String>> = modules
        .iter()
        .map(|(name, (info, _))| (name.clone(), info.depends.clone()))
        .collect();
    let mut archive = Archive::create(path)?;
    let directory = format!("usr/lib/modules/{release}");
    archive.parents(&format!("{directory}/"))?;
    let (mut index, mut aliases) = (String::new(), String::new());
    for (name, (info, bytes)) in modules {
        archive.file(&format!("{directory}/{name}.ko"), 0o644, bytes)?;
        // modprobe wants all dependencies, the last to be loaded first.
        let mut needed = loading_order(&dependencies, &[name])?;
        needed.pop();
        let needed: String = needed
            .iter()
            .rev()
            .map(|name| format!(" {name}.ko"))
            .collect();
        index += &format!("{name}.ko:{needed}\n");
        for alias in &info.aliases {
            aliases += &format!("alias {alias} {name}\n");
        }
    }
    archive.file(&format!("{directory}/modules.dep"), 0o644, index.as_bytes())?;
    archive.file(
        &format!("{directory}/modules.alias"),
        0o644,
        aliases.as_bytes(),
    )?;
    archive.file(&format!("{directory}/modules.symbols"), 0o644, b"")?;
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        edges
            .iter()
            .map(|(name, needed)| {
                (
                    (*name).to_owned(),
                    needed.iter().map(|name| (*name).to_owned()).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn modinfo_gives_dependencies_and_aliases() {
        let section =
            b"license=GPL\0depends=xor,raid6_pq,zstd-compress\0alias=fs-btrfs\0name=btrfs\0\0";
        let info = Info::parse(section);
        assert_eq!(info.depends, ["xor", "raid6_pq", "zstd_compress"]);
        assert_eq!(info.aliases, ["fs-btrfs"]);
        assert_eq!(Info::parse(b"depends=\0").depends, [""; 0]);
    }

    #[test]
    fn a_module_is_loaded_after_what_it_needs_and_once() {
        let graph = graph(&[
            ("btrfs", &["xor", "raid6_pq", "libcrc32c"]),
            ("xfs", &["libcrc32c"]),
            ("xor", &[]),
            ("raid6_pq", &["built_in"]),
            ("libcrc32c", &[]),
        ]);
        assert_eq!(
            loading_order(&graph, &["xfs", "btrfs", "ext4"]).unwrap(),
            ["libcrc32c", "xfs", "xor", "raid6_pq", "btrfs"]
        );
    }

    #[test]
    fn a_dependency_loop_is_an_error() {
        let graph = graph(&[("a", &["b"]), ("b", &["a"])]);
        assert!(loading_order(&graph, &["a"]).is_err());
    }
}
