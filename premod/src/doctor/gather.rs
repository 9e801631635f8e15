//! Collects what the checks judge. Loads and attaches every program as `trace` would, and lets go again.

use std::{path::PathBuf, thread::JoinHandle};

use premod_common::{
    facts::Settings,
    inode::{Scoped, TRACKED_MAX},
};

use super::{
    filesystems::{self, Filesystem},
    probe::{self, Probed},
};
use crate::{
    error::Error,
    kernel::{
        attach::{self, Attachment},
        btf::Btf,
        caps,
        enrol::{self, Enroller},
        environment::Environment,
        facts::{self, Fact},
        hooks::HOOKS,
        load,
    },
    namespaces::{self, Kind},
};

/// All there is to know about this machine.
#[derive(Debug)]
pub struct Gathered {
    /// Kernel, LSMs, lockdown.
    pub environment: Environment,
    /// Capabilities that are there.
    pub capabilities: Vec<String>,
    /// Capabilities that are missing.
    pub missing_capabilities: Vec<String>,
    /// This is a user namespace, in which capabilities are worth nothing to BPF.
    pub user_namespace: bool,
    /// Why there is no type information.
    pub btf: Result<(), String>,
    /// The facts; empty without type information.
    pub facts: Vec<Fact>,
    /// Whether the kernel takes our maps and our first program.
    pub bpf: Result<(), Refusal>,
    /// Every hook, and whether it could be attached; empty if the kernel refuses BPF.
    pub hooks: Vec<HookState>,
    /// Mounted filesystems.
    pub filesystems: Vec<Filesystem>,
    /// The live test, if it was asked for.
    pub probe: Option<Result<Vec<Probed>, String>>,
}

/// Why the kernel does not take BPF programs.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// It was not tried, because something before it is missing.
    NotTried,
    /// It forbids them.
    Forbidden(String),
    /// Anything else.
    Other(String),
}

/// One hook on this kernel.
#[derive(Clone, Debug)]
pub struct HookState {
    /// What it sees.
    pub sees: &'static str,
    /// What is missed without it.
    pub cost: &'static str,
    /// Tracing is refused without it.
    pub essential: bool,
    /// How it hangs, or why it does not.
    pub state: Result<Attachment, String>,
}

/// Collects everything. `probe` is a directory for the live test.
pub async fn gather(probe: Option<PathBuf>) -> Gathered {
    let environment = Environment::gather();
    let missing_capabilities = caps::missing();
    let mut gathered = Gathered {
        capabilities: caps::present(),
        user_namespace: namespaces::is_in_another(Kind::User),
        btf: Ok(()),
        facts: Vec::new(),
        bpf: Err(Refusal::NotTried),
        hooks: Vec::new(),
        filesystems: filesystems::mounted(),
        probe: None,
        environment,
        missing_capabilities,
    };
    let loader = load::Loader::in_background();
    let btf = match Btf::of_running_kernel() {
        Ok(btf) => btf,
        Err(error) => {
            gathered.btf = Err(error.to_string());
            return gathered;
        }
    };
    let mut table = facts::gather(&btf);
    gathered.facts.clone_from(&table.list);
    if !gathered.missing_capabilities.is_empty() || gathered.environment.lockdown_forbids() {
        return gathered;
    }
    gathered.bpf = attach_all(
        loader,
        &mut gathered.hooks,
        &btf,
        &mut table,
        &gathered.environment,
    )
    .map_err(|error| match error {
        Error::KernelRefuses { reason, .. } => Refusal::Forbidden(reason),
        other => Refusal::Other(other.to_string()),
    });
    gathered.facts = table.list;
    if let (Some(directory), Ok(())) = (probe, &gathered.bpf) {
        let probed = probe::run(&directory).await;
        gathered.probe = Some(probed.map_err(|error| error.to_string()));
    }
    gathered
}

fn attach_all(
    loader: Option<JoinHandle<load::Loader>>,
    hooks: &mut Vec<HookState>,
    btf: &Btf,
    table: &mut facts::FactTable,
    environment: &Environment,
) -> Result<(), Error> {
    let chosen: Vec<_> = HOOKS
        .iter()
        .map(|hook| hook.choose(btf, environment))
        .collect();
    let ways: Vec<_> = chosen.iter().copied().flatten().collect();
    let kernel_btf = attach::targets(btf, ways.iter().chain(&[enrol::HOOK]))?;
    let mut loader = load::Loader::ready(loader);
    let mut enroller = Enroller::load(&mut loader, table.facts, &kernel_btf, environment)?;
    let learnt = enrol::learn(&mut enroller, table, &[])?;
    let setup = load::Setup {
        facts: table.facts,
        settings: Settings {
            untracked_bdi: learnt.untracked_bdi,
            own_pid: learnt.own_pid,
            // With PATHs, so that the programs are verified in their longer form.
            scoped: Scoped::Below as u32,
            cgroups: 1,
            ..Settings::default()
        },
        buffer_size: rustix::param::page_size() as u32,
        inodes: TRACKED_MAX,
        cpus: 1,
        log_level: 0,
    };
    let mut ebpf = loader.object(&setup, environment)?;
    attach::load_ahead(&mut ebpf, &kernel_btf, &ways);
    for (hook, way) in HOOKS.iter().zip(chosen) {
        let state = match way {
            Some(way) => attach::attach(&mut ebpf, &kernel_btf, way, environment)
                .map(|()| way)
                .map_err(|error| error.to_string()),
            None => Err(format!("this kernel has no {}", hook.ways[0].target)),
        };
        hooks.push(HookState {
            sees: hook.sees,
            cost: hook.cost,
            essential: hook.essential,
            state,
        });
    }
    Ok(())
}
