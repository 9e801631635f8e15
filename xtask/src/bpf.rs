//! Finds a Rust toolchain that can build for the BPF target, and builds premod-ebpf with it.
//!
//! premod's build script includes this file with `#[path]`, so that a plain `cargo build` and
//! `cargo xtask` agree on how the object is made. It therefore uses nothing but std, and its
//! errors are single sentences that can be shown as they are.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The target triple of the BPF programs; every machine premod supports is little endian.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// What every error about a missing part of the toolchain ends with.
const REMEDY: &str = "run `cargo xtask setup`";

/// Where distributions install rustc; PATH usually finds rustup's first.
const PACKAGED_RUSTC: &str = "/usr/bin/rustc";

/// One BPF object: which binary of which package, with which features.
pub(crate) struct Object<'a> {
    pub(crate) package: &'a str,
    pub(crate) bin: &'a str,
    pub(crate) features: &'a [&'a str],
    /// The name of its file.
    pub(crate) name: &'a str,
}

/// The objects that premod's build script makes: what premod embeds, and what its tests in the virtual
/// machine embed.
pub(crate) const OBJECTS: &[Object<'_>] = &[
    Object {
        package: "premod-ebpf",
        bin: "premod-ebpf",
        features: &[],
        name: "premod.bpf.o",
    },
    Object {
        package: "premod-ebpf",
        bin: "premod-ebpf-freeze",
        features: &[],
        name: "freeze.bpf.o",
    },
    Object {
        package: "premod-ebpf",
        bin: "premod-ebpf-spin",
        features: &[],
        name: "spin.bpf.o",
    },
];

/// Where rustc and `core` for the BPF target come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// rustup's nightly with rust-src: core is built from source.
    Nightly,
    /// A distribution's rustc whose package brings a built core for the BPF target.
    Packaged(PathBuf),
}

/// A compiler for the BPF target, the LLVM it carries, and the linker that goes with it.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// Finds what the workspace at `root` can be built with: rustup's nightly first, then the
    /// distribution's rustc. bpf-linker reads the bitcode of its own LLVM and of older ones, so
    /// a compiler that is newer than the linker is passed over.
    pub(crate) fn find(root: &Path) -> Result<Self, String> {
        let linker = find_linker(root).ok_or(format!("bpf-linker is not installed: {REMEDY}"))?;
        let linker_llvm = linker_llvm(root);
        let candidates = compilers();
        if candidates.is_empty() {
            return Err(format!(
                "no Rust toolchain for the BPF target was found: {REMEDY}"
            ));
        }
        candidates
            .into_iter()
            .find(|(_, llvm)| linker_llvm.is_none_or(|linker| *llvm <= linker))
            .map(|(compiler, _)| Self { compiler, linker })
            .ok_or(format!("bpf-linker's LLVM is older than rustc's: {REMEDY}"))
    }

    /// The cargo command that builds `object`; the caller may add to it.
    pub(crate) fn command(&self, root: &Path, object: &Object<'_>) -> Command {
        let mut command = match &self.compiler {
            Compiler::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
                command
            }
            Compiler::Packaged(_) => {
                let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
                command.arg("build");
                command
            }
        };
        clean_environment(&mut command);
        match &self.compiler {
            Compiler::Nightly => {}
            // aya-ebpf enables an unstable feature, which a stable rustc refuses without this.
            Compiler::Packaged(rustc) => {
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            }
        }
        // bpf-linker goes by the name of its file: rustc picks the linker flavour by it.
        let mut path = OsString::from(self.linker.parent().unwrap_or(root));
        if let Some(rest) = env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        let flags = [
            "-Cdebuginfo=2",
            "-Clink-arg=--btf",
            "-Clinker=bpf-linker",
            "-Ctarget-cpu=v3",
        ];
        command
            .current_dir(root)
            .env("PATH", path)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .args(["--release", "--target", TARGET, "--package", object.package])
            .args(["--bin", object.bin, "--target-dir"])
            .arg(target_dir(root));
        if !object.features.is_empty() {
            command.args(["--features", &object.features.join(",")]);
        }
        command
    }

    /// Builds `object` and copies the ELF file into `directory`. Compiler messages go to stderr.
    pub(crate) fn build(
        &self,
        root: &Path,
        object: &Object<'_>,
        directory: &Path,
    ) -> Result<(), String> {
        let mut command = self.command(root, object);
        // In a build script stdout is cargo's, so nothing of the inner cargo may reach it.
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .map_err(|error| format!("cannot run {:?}: {error}", command.get_program()))?;
        if !status.success() {
            return Err(format!(
                "building {} for {TARGET} failed ({status})",
                object.package
            ));
        }
        let built = target_dir(root)
            .join(TARGET)
            .join("release")
            .join(object.bin);
        let wanted = directory.join(object.name);
        fs::copy(&built, &wanted).map(drop).map_err(|error| {
            format!(
                "cannot copy {} to {}: {error}",
                built.display(),
                wanted.display()
            )
        })
    }
}

/// A target directory of its own: the outer cargo holds the lock of the usual one while it runs
/// premod's build script.
fn target_dir(root: &Path) -> PathBuf {
    root.join("target/bpf")
}

/// Where `cargo xtask setup` puts bpf-linker, and the note of the LLVM it was built with.
pub(crate) fn tools_dir(root: &Path) -> PathBuf {
    root.join("target/tools")
}

/// The bpf-linker to use: setup's own, else the one in PATH.
pub(crate) fn find_linker(root: &Path) -> Option<PathBuf> {
    let own = tools_dir(root).join("bin/bpf-linker");
    if own.is_file() {
        return Some(own);
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join("bpf-linker"))
        .find(|file| file.is_file())
}

/// The LLVM major that setup built bpf-linker with, when it was setup that built it.
pub(crate) fn linker_llvm(root: &Path) -> Option<u32> {
    let note = fs::read_to_string(tools_dir(root).join("bpf-linker.llvm")).ok()?;
    note.trim().parse().ok()
}

/// Every compiler on this machine that can build for the BPF target, best first, with the major
/// version of its LLVM.
pub(crate) fn compilers() -> Vec<(Compiler, u32)> {
    let mut found = Vec::new();
    if let Some((sysroot, llvm)) = inspect(&["rustup", "run", "nightly", "rustc"])
        && sysroot
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .is_file()
    {
        found.push((Compiler::Nightly, llvm));
    }
    if let Some((sysroot, llvm)) = inspect(&[PACKAGED_RUSTC])
        && sysroot.join("lib/rustlib").join(TARGET).is_dir()
    {
        found.push((Compiler::Packaged(PACKAGED_RUSTC.into()), llvm));
    }
    found
}

/// The sysroot and the LLVM major of the rustc that `rustc` (a program and its first arguments)
/// runs.
fn inspect(rustc: &[&str]) -> Option<(PathBuf, u32)> {
    let ask = |question| {
        let mut command = Command::new(rustc.first()?);
        clean_environment(&mut command);
        // Asking must not make rustup fetch a toolchain that the user never asked for.
        command
            .env("RUSTUP_AUTO_INSTALL", "0")
            .args(&rustc[1..])
            .arg(question);
        let output = command.stdin(Stdio::null()).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).ok())
            .flatten()
    };
    let sysroot = ask("--print=sysroot")?;
    Some((PathBuf::from(sysroot.trim_end()), llvm_major(&ask("-vV")?)?))
}

/// The LLVM major in the output of `rustc -vV`.
fn llvm_major(verbose_version: &str) -> Option<u32> {
    let version = verbose_version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

/// Removes what an outer cargo or the user's shell tells cargo and rustc about the host build:
/// inherited flags, wrappers, profiles and targets would make a different object, or none. A build script of aya's asks to
/// be run again when HOST changes: it is set inside of a build script, and not in a shell.
fn clean_environment(command: &mut Command) {
    const KEPT: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_TERM_",
    ];
    const DROPPED: [&str; 10] = [
        "HOST",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "MAKEFLAGS",
        "MFLAGS",
    ];
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let cargos = name.starts_with("CARGO_") && !KEPT.iter().any(|kept| name.starts_with(kept));
        if cargos || DROPPED.contains(&name) {
            command.env_remove(name);
        }
    }
}
