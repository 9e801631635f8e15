//! `cargo xtask run`: builds premod and runs it, on this machine where its kernel accepts the
//! programs, else in the VM.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    setup,
    vm::{self, Output, Vm, disk::Filesystem, quote, terminal},
};

/// Builds premod and runs it with the given arguments.
///
/// Where this machine's kernel refuses the BPF programs (`premod doctor` tells), premod runs in
/// the VM instead, with a fresh ext4 at /mnt/test.
#[derive(Args)]
pub(crate) struct Options {
    /// Run in the VM in any case
    #[arg(long)]
    vm: bool,
    /// The VM's kernel: 6.1, 6.12, 6.18, or 7 for the newest 7.x
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// premod's arguments
    #[arg(last = true, required = true)]
    arguments: Vec<String>,
}

impl Options {
    pub(crate) fn run(self) -> Result<ExitCode> {
        setup::ensure(&setup::BPF_PARTS)?;
        // The VM's binary runs here too: whichever it will be, one build is enough.
        let programs = vm::programs(true, &[])?;
        let premod = programs.iter().find(|(path, _)| path.ends_with("premod"));
        if let Some((premod, _)) = premod
            && !self.vm
        {
            match refusal(premod)? {
                None => {
                    let error = Command::new(premod).args(&self.arguments).exec();
                    return Err(error).with_context(|| format!("cannot run {}", premod.display()));
                }
                Some(refusal) => eprintln!("run: {refusal}: running in the VM"),
            }
        }
        setup::ensure(&[
            setup::Part::Qemu,
            setup::Part::Guest,
            setup::Part::Kernel(self.kernel.clone()),
        ])?;
        let words: Vec<String> = self.arguments.iter().map(|word| quote(word)).collect();
        let vm = Vm {
            filesystems: vec![Filesystem::Ext4],
            programs,
            terminal: terminal::present(),
            ..Vm::new(
                setup::kernel(&self.kernel)?,
                format!("premod {}", words.join(" ")),
            )
        };
        vm.run("run", &mut Output).map(|report| report.exit_code())
    }
}

/// Why premod cannot trace on this machine; `None` when it can.
fn refusal(premod: &Path) -> Result<Option<String>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Some("tracing on this machine takes root".to_owned()));
    }
    let doctor = Command::new(premod)
        .args(["doctor", "--json"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {} doctor", premod.display()))?;
    if doctor.status.success() {
        return Ok(None);
    }
    let messages = String::from_utf8_lossy(&doctor.stderr).into_owned();
    let reason = messages
        .lines()
        .last()
        .map(|line| format!(" ({line})"))
        .unwrap_or_default();
    Ok(Some(format!(
        "this machine's kernel does not accept premod's programs{reason}"
    )))
}
