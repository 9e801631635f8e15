//! The BPF toolchain: a Rust compiler that has `core` for the BPF target, and bpf-linker with the
//! LLVM of that compiler.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

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

/// The compilers that are there and that bpf-linker can follow, best first.
fn usable() -> Vec<(Compiler, u32)> {
    let mut compilers = bpf::compilers();
    compilers.retain(|(_, llvm)| LINKER_LLVMS.contains(llvm));
    compilers
}

fn describe((compiler, llvm): &(Compiler, u32)) -> String {
    match compiler {
        Compiler::Nightly => format!("rustup's nightly, LLVM {llvm}"),
        Compiler::Packaged(path) => format!("{}, LLVM {llvm}", path.display()),
    }
}

/// The compiler that is there.
pub(crate) fn compiler() -> Option<String> {
    usable().first().map(describe)
}

/// The linker that is there, if it can read what one of the compilers writes. It reads the
/// bitcode of older LLVMs than its own, not of newer ones.
pub(crate) fn linker() -> Option<String> {
    let path = bpf::find_linker(paths::root())?;
    let own = bpf::linker_llvm(paths::root()).unwrap_or(u32::MAX);
    let compilers = usable();
    if !compilers.is_empty() && compilers.iter().all(|(_, llvm)| *llvm > own) {
        return None;
    }
    Some(paths::shown(&path))
}

/// Installs the distribution's compiler.
pub(crate) fn install_compiler(apt: &PrivateApt) -> Result<String> {
    for packages in PACKAGES.into_iter().filter(|packages| apt.has(packages)) {
        install(apt, packages)?;
        let packaged = |(compiler, _): &&(Compiler, u32)| *compiler != Compiler::Nightly;
        if let Some(compiler) = usable().iter().find(packaged) {
            return Ok(describe(compiler));
        }
    }
    bail!(
        "the distribution has no rustc for the BPF target that bpf-linker {LINKER_VERSION} can \
         follow: install rustup's nightly with `rustup toolchain install nightly --component rust-src`"
    )
}

/// Builds bpf-linker with the LLVM of the best compiler whose LLVM there is; `apt` is asked only
/// when that LLVM is not installed.
pub(crate) fn install_linker<'a>(apt: impl Fn() -> Result<&'a PrivateApt>) -> Result<String> {
    let installed = |(_, llvm): &&(Compiler, u32)| llvm_prefix(*llvm).join(LLVM_HEADER).exists();
    let compilers = usable();
    let llvm = if let Some((_, llvm)) = compilers.iter().find(installed)
        && Path::new("/usr/include/zstd.h").exists()
    {
        *llvm
    } else {
        let apt = apt()?;
        let available = |(_, llvm): &&(Compiler, u32)| apt.has(&[&format!("llvm-{llvm}-dev")]);
        if !compilers.iter().any(|compiler| available(&compiler)) {
            // A nightly whose LLVM the distribution does not have yet.
            install_compiler(apt)?;
        }
        let compilers = usable();
        let (_, llvm) = compilers.iter().find(available).with_context(|| {
            let compilers: Vec<String> = compilers.iter().map(describe).collect();
            format!(
                "the distribution has no LLVM that goes with {}",
                compilers.join(" or ")
            )
        })?;
        install(
            apt,
            &[&format!("llvm-{llvm}-dev"), "zlib1g-dev", "libzstd-dev"],
        )?;
        *llvm
    };
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
        .env("LLVM_PREFIX", llvm_prefix(llvm))
        .env_remove("RUSTFLAGS");
    exec::output(&mut command)?;
    fs::write(tools.join("bpf-linker.llvm"), llvm.to_string())
        .context("cannot note bpf-linker's LLVM")?;
    // It is large and not needed again.
    drop(fs::remove_dir_all(tools.join("build")));
    Ok(format!("{LINKER_VERSION} with LLVM {llvm}"))
}

/// Where Debian installs an LLVM, and the file in it that only its -dev package has.
fn llvm_prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}
const LLVM_HEADER: &str = "include/llvm-c/Core.h";

fn install(apt: &PrivateApt, packages: &[&str]) -> Result<()> {
    let mut command: Command = apt.command("apt-get");
    command
        .args(["install", "--yes", "--no-install-recommends", "-q"])
        .args(packages);
    exec::output(&mut command).map(drop)
}
