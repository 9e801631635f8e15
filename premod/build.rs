//! Builds the BPF programs and leaves the object in `OUT_DIR`, where the library embeds it.

#[path = "../xtask/src/bpf.rs"]
mod bpf;

use std::{env, path::Path};

fn main() {
    if let Err(sentence) = build() {
        println!("cargo::error={sentence}");
    }
}

/// The errors are sentences for the user: a panic's backtrace would bury them.
fn build() -> Result<(), String> {
    let variable = |name| env::var_os(name).ok_or(format!("cargo did not set {name}"));
    let manifest_dir = variable("CARGO_MANIFEST_DIR")?;
    let out_dir = variable("OUT_DIR")?;
    let root = Path::new(&manifest_dir)
        .parent()
        .ok_or("premod lies outside its workspace")?;
    for input in [
        "Cargo.toml",
        "Cargo.lock",
        "premod-common/Cargo.toml",
        "premod-common/src",
        "premod-ebpf/Cargo.toml",
        "premod-ebpf/src",
        "xtask/src/bpf.rs",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let toolchain = bpf::Toolchain::find(root)?;
    for object in bpf::OBJECTS {
        toolchain.build(root, object, Path::new(&out_dir))?;
    }
    // A linker that setup puts there later, or one of another LLVM, makes another object.
    println!("cargo::rerun-if-changed={}", toolchain.linker.display());
    Ok(())
}
