//! `cargo xtask setup`: installs and fetches what building and testing need. Each part is looked
//! for first, so that a second run does nothing and asks nobody.

pub(crate) mod apt;
pub(crate) mod guest;
pub(crate) mod kernels;
pub(crate) mod qemu;
pub(crate) mod servers;
mod toolchain;

use std::{
    cell::OnceCell,
    fmt,
    fs::{self, File},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{apt::PrivateApt, kernels::Kernel};
use crate::{paths, progress};

/// Installs what building and testing need; does nothing when it is all there.
#[derive(Args)]
pub(crate) struct Options {
    /// Only say what is there and what is missing
    #[arg(long)]
    check: bool,
    /// Look for newer kernels
    #[arg(long, conflicts_with = "check")]
    update: bool,
}

/// Something that setup can bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// A Rust compiler for the BPF target.
    Compiler,
    /// bpf-linker.
    Linker,
    Qemu,
    /// The guest's user space.
    Guest,
    /// Database servers for the guest, which only one part of the soak needs.
    Servers,
    /// The kernel of a series.
    Kernel(String),
}

/// What building premod needs.
pub(crate) const BPF_PARTS: [Part; 2] = [Part::Compiler, Part::Linker];

/// Everything that the tests need.
pub(crate) fn all_parts() -> Vec<Part> {
    let mut parts = BPF_PARTS.to_vec();
    parts.extend([Part::Qemu, Part::Guest]);
    parts.extend(kernels::SERIES.map(|series| Part::Kernel(series.to_owned())));
    parts
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiler => formatter.write_str("Rust for the BPF target"),
            Self::Linker => formatter.write_str("bpf-linker"),
            Self::Qemu => formatter.write_str("QEMU"),
            Self::Guest => formatter.write_str("the guest's tools"),
            Self::Servers => formatter.write_str("database servers for the guest"),
            Self::Kernel(series) => write!(formatter, "kernel {series}"),
        }
    }
}

impl Part {
    /// What of it is there.
    fn present(&self) -> Option<String> {
        match self {
            Self::Compiler => toolchain::compiler(),
            Self::Linker => toolchain::linker(),
            Self::Qemu => qemu::version(),
            Self::Guest => guest::present().then(|| "unpacked".to_owned()),
            Self::Servers => servers::present().then(|| "unpacked".to_owned()),
            Self::Kernel(series) => Kernel::cached(series).map(|kernel| kernel.release),
        }
    }

    fn install(&self, apts: &Apts) -> Result<String> {
        match self {
            Self::Compiler => {
                need_root(self)?;
                toolchain::install_compiler(apts.host()?)
            }
            Self::Linker => toolchain::install_linker(|| {
                need_root(self)?;
                apts.host()
            }),
            Self::Qemu => {
                need_root(self)?;
                qemu::install(apts.host()?)
            }
            Self::Guest => guest::fetch(apts.guest()?),
            Self::Servers => servers::fetch(apts.guest()?),
            Self::Kernel(series) => kernels::fetch(apts.guest()?, series),
        }
    }
}

/// The two private apts, made and updated when they are first needed.
#[derive(Default)]
struct Apts {
    host: OnceCell<PrivateApt>,
    guest: OnceCell<PrivateApt>,
}

impl Apts {
    fn host(&self) -> Result<&PrivateApt> {
        updated(&self.host, PrivateApt::for_host)
    }

    fn guest(&self) -> Result<&PrivateApt> {
        updated(&self.guest, PrivateApt::for_guest)
    }
}

fn updated(cell: &OnceCell<PrivateApt>, make: fn() -> Result<PrivateApt>) -> Result<&PrivateApt> {
    if let Some(apt) = cell.get() {
        return Ok(apt);
    }
    let apt = make()?;
    apt.update()?;
    Ok(cell.get_or_init(|| apt))
}

impl Options {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        if self.check {
            let mut complete = true;
            for part in all_parts() {
                let present = part.present();
                complete &= present.is_some();
                eprintln!("setup: {part}: {}", present.as_deref().unwrap_or("missing"));
            }
            return Ok(if complete {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        ensure(&all_parts())?;
        if self.update {
            let apts = Apts::default();
            for series in kernels::SERIES {
                update_kernel(&apts, series)?;
            }
        }
        eprintln!("setup: complete ({:.1} s)", start.elapsed().as_secs_f32());
        Ok(ExitCode::SUCCESS)
    }
}

/// Fetches the newest kernel of a series. Without a mirror the one that is there will do.
fn update_kernel(apts: &Apts, series: &str) -> Result<()> {
    progress::step(format_args!("setup: newest kernel {series}"), || match apts
        .guest()
        .and_then(|apt| kernels::fetch(apt, series))
    {
        Ok(release) => Ok(((), release)),
        Err(error) => Ok(((), format!("kept what is there: {error:#}"))),
    })
}

/// Brings those of `parts` that are missing, one line on stderr for each.
pub(crate) fn ensure(parts: &[Part]) -> Result<()> {
    let missing = |parts: &[Part]| -> Vec<Part> {
        parts
            .iter()
            .filter(|part| part.present().is_none())
            .cloned()
            .collect()
    };
    if missing(parts).is_empty() {
        return Ok(());
    }
    if !cfg!(target_arch = "x86_64") {
        bail!("the VM and its kernels are amd64's, and this machine is not");
    }
    let _lock = lock("setup")?;
    // Another setup may have brought them while this one waited for the lock.
    let apts = Apts::default();
    for part in missing(parts) {
        progress::step(format_args!("setup: {part}"), || {
            part.install(&apts).map(|done| ((), done))
        })?;
    }
    for apt in [apts.host.get(), apts.guest.get()].into_iter().flatten() {
        apt.clean()?;
    }
    Ok(())
}

/// The kernel of a series, which `ensure` has brought.
pub(crate) fn kernel(series: &str) -> Result<Kernel> {
    Kernel::cached(series)
        .with_context(|| format!("kernel {series} is missing: run `cargo xtask setup`"))
}

/// Keeps two processes (or threads) from doing the same at the same time; released when the file
/// is closed.
pub(crate) fn lock(name: &str) -> Result<File> {
    let path = paths::vm().join(format!("{name}.lock"));
    fs::create_dir_all(paths::vm()).context("mkdir target/vm")?;
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn need_root(part: &Part) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("{part} is not installed and installing it takes root: run `cargo xtask setup` as root")
}
