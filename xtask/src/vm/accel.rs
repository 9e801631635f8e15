//! Chooses how QEMU runs the guest: with KVM where that really works, else by translation.

use std::{
    fs::{self, OpenOptions},
    path::PathBuf,
};

use anyhow::{Context as _, Result};

use crate::{paths, setup::qemu};

/// How QEMU runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accel {
    /// On the CPU itself.
    Kvm,
    /// Translated, one thread for each of the guest's CPUs.
    Tcg,
    /// The same with a QEMU that must not be given cmpxchg16b.
    OldTcg,
}

impl Accel {
    /// Whether the guest's instructions are translated.
    pub(crate) fn translates(self) -> bool {
        !matches!(self, Self::Kvm)
    }
}

/// Where the answer of the last probe is kept.
pub(crate) fn cache() -> PathBuf {
    paths::vm().join("accel")
}

impl Accel {
    /// What to run with on this machine. That /dev/kvm exists says little (in containers and
    /// nested machines it may fail in many ways), so the first time `boots` tries it out.
    pub(crate) fn choose(boots: impl FnOnce(Self) -> bool) -> Result<Self> {
        let version = qemu::version().context("QEMU is not installed: run `cargo xtask setup`")?;
        let old = qemu::major(&version).is_some_and(|major| major < qemu::GOOD);
        let translated = if old { Self::OldTcg } else { Self::Tcg };
        if OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return Ok(translated);
        }
        let host = rustix::system::uname();
        let key = format!("{version} {} ", host.release().to_string_lossy());
        let answer = fs::read_to_string(cache()).ok();
        if let Some(answer) = answer
            .as_deref()
            .and_then(|answer| answer.strip_prefix(&key))
        {
            return Ok(if answer == "kvm" {
                Self::Kvm
            } else {
                translated
            });
        }
        let works = boots(Self::Kvm);
        fs::write(
            cache(),
            format!("{key}{}", if works { "kvm" } else { "tcg" }),
        )
        .context("cannot keep the answer of the KVM probe")?;
        Ok(if works { Self::Kvm } else { translated })
    }
}
