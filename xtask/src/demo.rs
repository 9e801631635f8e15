//! `cargo xtask demo`: shows what premod sees of real programs, in a VM.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;

use crate::{
    paths, setup,
    vm::{self, Output, Vm, disk::Filesystem},
};

/// Sets up what is missing, boots a kernel and traces real programs on ext4.
///
/// stdout gets the JSON of `premod trace`, everything else goes to stderr.
#[derive(Args)]
pub(crate) struct Options {
    /// The kernel's series: 6.1, 6.12, 6.18, or 7 for the newest 7.x
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// The file system of the test disk
    #[arg(long = "fs", value_name = "TYPE", default_value = "ext4")]
    filesystem: Filesystem,
}

/// The programs that are traced, where the guest's command starts.
const SCRIPT: &str = "demo.sh";

impl Options {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut parts = setup::BPF_PARTS.to_vec();
        parts.extend([setup::Part::Qemu, setup::Part::Guest]);
        parts.push(setup::Part::Kernel(self.kernel.clone()));
        setup::ensure(&parts)?;
        let mut programs = vm::programs(true, &[("vm", "/usr/bin/premod-vm-test")])?;
        programs.push((paths::root().join("xtask/src/demo.sh"), vm::at_home(SCRIPT)));
        let vm = Vm {
            filesystems: vec![self.filesystem],
            programs,
            timeout: Some(Duration::from_secs(180)),
            ..Vm::new(
                setup::kernel(&self.kernel)?,
                format!("premod trace --json /mnt/test -- sh {SCRIPT}"),
            )
        };
        eprintln!(
            "demo: booting {} with {} ...",
            vm.kernel.release, self.filesystem
        );
        vm.run("demo", &mut Output).map(|report| report.exit_code())
    }
}
