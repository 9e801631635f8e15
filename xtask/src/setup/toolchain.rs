//! The BPF toolchain: a Rust compiler that has `core` for the BPF target, and bpf-linker with the
//! LLVM of that compiler.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::apt::PrivateApt;
use crate::{
    bpf::{self, Compiler},
    build, exec, paths,
};

/// The release of bpf-linker that setup builds, and the LLVM majors it can be built with.
const LINKER_VERSION: &str = "0.13.0";
const LINKER_LLVMS: [u32; 3] = [21, 22, 23];

/// Debian's packages of a Rust compiler with `core` for the BPF target: the names on releases
/// whose own rustc is too old (the ones browsers are built with), then the usual ones.
const PACKAGES: [&[&str]; 2] = [
    &["rustc-web", "libstd-rust-web-dev-bpf"],
    &["rustc", "libstd-rust-dev-bpf"],
];

/// The best compiler that bpf-linker can follow.
fn chosen() -> Option<(Compiler, u32)> {
    bpf::compilers()
        .into_iter()
        .find(|(_, llvm)| LINKER_LLVMS.contains(llvm))
}

/// The compiler that is there.
pub(crate) fn compiler() -> Option<String> {
    chosen().map(|(compiler, llvm)| match compiler {
        Compiler::Nightly => format!("rustup's nightly, LLVM {llvm}"),
        Compiler::Packaged(path) => format!("{}, LLVM {llvm}", path.display()),
    })
}

/// The linker that is there, if it can read what the compiler writes.
pub(crate) fn linker() -> Option<String> {
    let path = bpf::find_linker(paths::root())?;
    let needed = chosen().map_or(0, |(_, llvm)| llvm);
    if bpf::linker_llvm(paths::root()).is_some_and(|llvm| llvm < needed) {
        return None;
    }
    Some(paths::shown(&path))
}

/// Installs the distribution's compiler.
pub(crate) fn install_compiler(apt: &PrivateApt) -> Result<String> {
    for packages in PACKAGES.into_iter().filter(|packages| apt.has(packages)) {
        install(apt, packages)?;
        if let Some(compiler) = compiler() {
            return Ok(compiler);
        }
    }
    bail!(
        "the distribution has no rustc for the BPF target that bpf-linker {LINKER_VERSION} can \
         follow: install rustup's nightly with `rustup toolchain install nightly --component rust-src`"
    )
}

/// Builds bpf-linker with the LLVM of the compiler; `apt` is asked only when that LLVM is missing.
pub(crate) fn install_linker<'a>(apt: impl FnOnce() -> Result<&'a PrivateApt>) -> Result<String> {
    let (_, llvm) = chosen().context("there is no compiler for the BPF target")?;
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let header = Path::new(&prefix).join("include/llvm-c/Core.h");
    if !header.exists() || !Path::new("/usr/include/zstd.h").exists() {
        install(
            apt()?,
            &[&format!("llvm-{llvm}-dev"), "zlib1g-dev", "libzstd-dev"],
        )?;
    }
    let tools = bpf::tools_dir(paths::root());
    let mut command = build::cargo();
    command
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
            "--force",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
            "--root",
        ])
        .arg(&tools)
        .arg("--target-dir")
        .arg(tools.join("build"))
        .env("LLVM_PREFIX", &prefix)
        .env_remove("RUSTFLAGS");
    exec::output(&mut command)?;
    fs::write(tools.join("bpf-linker.llvm"), llvm.to_string())
        .context("cannot note bpf-linker's LLVM")?;
    // It is large and not needed again.
    drop(fs::remove_dir_all(tools.join("build")));
    Ok(format!("{LINKER_VERSION} with LLVM {llvm}"))
}

fn install(apt: &PrivateApt, packages: &[&str]) -> Result<()> {
    let mut command: Command = apt.command("apt-get");
    command
        .args(["install", "--yes", "--no-install-recommends", "-q"])
        .args(packages);
    exec::output(&mut command).map(drop)
}
