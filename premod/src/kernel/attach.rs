//! Attaching programs to what they hang on.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    thread::{Builder, available_parallelism, scope},
};

use aya::{
    Btf, Ebpf,
    maps::{MapData, ProgramArray},
    programs::{Program, ProgramError},
};

use super::{btf, environment::Environment, facts, hooks::HOOKS, load as loading};
use crate::error::Error;

/// How a program hangs in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An LSM hook, which could also deny.
    Lsm,
    /// The entry of a kernel function.
    Fentry,
    /// The exit of a kernel function.
    Fexit,
    /// A tracepoint with typed arguments.
    Tracepoint,
    /// The entry of a kernel function, by a breakpoint or what stands for one: dearer, and not skipped for the preemption
    /// of another task inside of it.
    Kprobe,
    /// What premod runs itself, by reading: it is called for each thing of a kind that the kernel has.
    Iterator,
}

/// One way to attach one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Attachment {
    /// How it hangs.
    pub kind: Kind,
    /// The LSM hook, function or tracepoint.
    pub target: &'static str,
    /// Name of the program in the object.
    #[serde(skip)]
    pub program: &'static str,
    /// Name of a program that does the same: it hangs there as well where the kernel may skip one of them.
    #[serde(skip)]
    pub twin: Option<&'static str>,
    /// What has to hang elsewhere for this one to know what it sees.
    #[serde(skip)]
    pub needs: Option<&'static Attachment>,
}

/// One thing premod listens to, with the ways to do so, best first.
#[derive(Debug)]
pub struct Hook {
    /// What it sees.
    pub sees: &'static str,
    /// Ways to attach, best first.
    pub ways: &'static [Attachment],
    /// What is missed without it.
    pub cost: &'static str,
    /// Tracing is refused without it.
    pub essential: bool,
    /// A change may be lost, or be announced too late, if the kernel skips its program. The others are second looks, or
    /// know more than those that decide.
    pub decides: bool,
    /// When it is needed.
    pub when: When,
}

/// When a hook is needed: one that is not costs nobody anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// When PATHs are traced.
    Scoped,
    /// When some disk wants pages to be stable while they are written back, so that a writer may sleep for
    /// that after it has locked the page.
    StablePages,
    /// When the kernel knows btrfs.
    Btrfs,
}

impl Attachment {
    /// The name of the target's type in the kernel's type information.
    #[must_use]
    pub fn type_name(&self) -> String {
        match self.kind {
            Kind::Lsm => format!("bpf_lsm_{}", self.target),
            Kind::Fentry | Kind::Fexit | Kind::Kprobe => self.target.to_owned(),
            Kind::Tracepoint => format!("btf_trace_{}", self.target),
            Kind::Iterator => format!("bpf_iter_{}", self.target),
        }
    }

    /// Whether a change may be lost if the kernel skips the program, and its twin. It never skips one of an LSM hook.
    #[must_use]
    pub fn loses_when_skipped(&self) -> bool {
        let is_this = |way: &Self| (way.kind, way.target) == (self.kind, self.target);
        let or_needed = |way: &Self| is_this(way) || way.needs.is_some_and(is_this);
        self.kind != Kind::Lsm
            && HOOKS
                .iter()
                .any(|hook| hook.decides && hook.ways.iter().any(or_needed))
    }

    /// The same way, with a program that hangs there as well.
    pub(crate) const fn with_twin(self, program: &'static str) -> Self {
        Self {
            twin: Some(program),
            ..self
        }
    }

    /// The same way, which needs another one.
    pub(crate) const fn with(self, needs: &'static Self) -> Self {
        Self {
            needs: Some(needs),
            ..self
        }
    }

    /// The program that this one calls, if it does not announce by itself (premod-ebpf/src/hand_over.rs). It hangs nowhere.
    #[must_use]
    pub fn hands_over_to(&self) -> Option<Self> {
        (self.kind == Kind::Kprobe).then_some(kprobe("", "kprobe_advance"))
    }

    /// How the twin hangs, if there is one.
    #[must_use]
    pub fn of_twin(&self) -> Option<Self> {
        let twin = |program| Self {
            program,
            twin: None,
            ..*self
        };
        self.twin.map(twin)
    }
}

/// Type information for [`attach`] to find the targets of these in.
///
/// # Errors
/// If aya does not understand it.
pub fn targets<'a>(
    btf: &btf::Btf,
    ways: impl IntoIterator<Item = &'a Attachment>,
) -> Result<Btf, Error> {
    let names: Vec<_> = ways.into_iter().map(Attachment::type_name).collect();
    btf.of_targets(names.iter().map(String::as_str))
        .map_err(|error| Error::kernel("cannot use the kernel's type information", &error))
}

impl When {
    /// Whether it is needed now.
    #[must_use]
    pub fn applies(self, scoped: bool, environment: &Environment) -> bool {
        match self {
            Self::Always => true,
            Self::Scoped => scoped,
            Self::StablePages => environment.stable_pages,
            Self::Btrfs => environment.btrfs,
        }
    }
}

pub(crate) const fn lsm(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Lsm,
        target,
        program,
        twin: None,
        needs: None,
    }
}

pub(crate) const fn fentry(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Fentry,
        target,
        program,
        twin: None,
        needs: None,
    }
}

pub(crate) const fn fexit(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Fexit,
        target,
        program,
        twin: None,
        needs: None,
    }
}

pub(crate) const fn tracepoint(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Tracepoint,
        target,
        program,
        twin: None,
        needs: None,
    }
}

pub(crate) const fn iterator(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Iterator,
        target,
        program,
        twin: None,
        needs: None,
    }
}

pub(crate) const fn kprobe(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Kprobe,
        target,
        program,
        twin: None,
        needs: None,
    }
}

impl Hook {
    /// The way to attach this hook on the running kernel; `None` if there is none.
    #[must_use]
    pub fn choose(&self, btf: &btf::Btf, environment: &Environment) -> Option<Attachment> {
        let exists = |way: &&Attachment| match way.kind {
            Kind::Lsm => environment.bpf_lsm_is_active() && btf.has_function(&way.type_name()),
            Kind::Fentry | Kind::Fexit | Kind::Iterator => btf.has_function(&way.type_name()),
            Kind::Kprobe => {
                environment.preemption.is_anywhere()
                    && !environment.kprobes_off
                    && btf.has_function(&way.type_name())
                    && btf.has_function("bpf_rdonly_cast")
            }
            // A tracepoint's type has no entry of its own that all kernels spell alike; the load tells.
            Kind::Tracepoint => true,
        };
        self.ways
            .iter()
            .filter(|way| is_called(way.target, btf))
            .find(exists)
            .copied()
    }
}

/// Whether a function, where there is one of this name, is called by those for whom it is hooked: late releases of 6.1
/// have got `kiocb_invalidate_pages`, and do not call it for direct writes of ext4, xfs and btrfs.
fn is_called(function: &str, btf: &btf::Btf) -> bool {
    function != "kiocb_invalidate_pages" || !facts::iomap_is_old(btf)
}

/// Loads programs, on all CPUs: the kernel takes most of the time in which premod starts to verify them one by one, and
/// verifies different ones side by side.
///
/// What it does not take is left to [`attach`], which tries it again and says why.
pub fn load_ahead(ebpf: &mut Ebpf, kernel_btf: &Btf, ways: &[Attachment]) {
    let mut programs: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    let wanted: Vec<_> = ways
        .iter()
        .filter_map(|way| Some((programs.remove(way.program)?, way.target)))
        .collect();
    let queue = Mutex::new(wanted.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    scope(|threads| {
        for _ in 0..available_parallelism().map_or(1, usize::from) {
            // Where there can be no thread, or fewer, more is left to `attach`, too.
            let _ = Builder::new().spawn_scoped(threads, || {
                while let Some((program, target)) = next() {
                    let _ = load(program, kernel_btf, target);
                }
            });
        }
    });
}

/// Attaches one program, and loads it if it is not loaded yet.
///
/// # Errors
/// If the kernel does not take it.
pub fn attach(
    ebpf: &mut Ebpf,
    kernel_btf: &Btf,
    way: Attachment,
    environment: &Environment,
) -> Result<(), Error> {
    let explain = |error: &ProgramError| loading::explain(way.program, error, environment);
    let program = wanted(ebpf, way, environment)?;
    load_and_attach(program, kernel_btf, way.target).map_err(|error| explain(&error))?;
    tracing::debug!("attached {:?} {}", way.kind, way.target);
    Ok(())
}

/// Loads a program, unless it is loaded, and puts it where others call it: they do as long as `programs` lives.
///
/// # Errors
/// If the kernel does not take it.
pub fn make_callable(
    ebpf: &mut Ebpf,
    kernel_btf: &Btf,
    way: Attachment,
    mut programs: ProgramArray<MapData>,
    environment: &Environment,
) -> Result<ProgramArray<MapData>, Error> {
    let program = wanted(ebpf, way, environment)?;
    ensure_loaded(program, kernel_btf, way.target)
        .and_then(|()| Ok(programs.set(0, program.fd()?, 0)?))
        .map_err(|error| loading::explain(way.program, &error, environment))?;
    Ok(programs)
}

/// The program of a way to attach.
fn wanted<'a>(
    ebpf: &'a mut Ebpf,
    way: Attachment,
    environment: &Environment,
) -> Result<&'a mut Program, Error> {
    ebpf.program_mut(way.program)
        .ok_or_else(|| Error::KernelLacks {
            release: environment.release.clone(),
            what: format!("the program {}", way.program),
            cost: "the object is incomplete".to_owned(),
        })
}

fn ensure_loaded(program: &mut Program, btf: &Btf, target: &str) -> Result<(), ProgramError> {
    if program.fd().is_err() {
        load(program, btf, target)?;
    }
    Ok(())
}

fn load_and_attach(program: &mut Program, btf: &Btf, target: &str) -> Result<(), ProgramError> {
    ensure_loaded(program, btf, target)?;
    match program {
        Program::Lsm(program) => program.attach().map(drop),
        Program::FEntry(program) => program.attach().map(drop),
        Program::FExit(program) => program.attach().map(drop),
        Program::BtfTracePoint(program) => program.attach().map(drop),
        Program::KProbe(program) => program.attach(target, 0).map(drop),
        // Whoever reads it attaches it.
        Program::Iter(_) => Ok(()),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn load(program: &mut Program, btf: &Btf, target: &str) -> Result<(), ProgramError> {
    match program {
        Program::Lsm(program) => program.load(target, btf),
        Program::FEntry(program) => program.load(target, btf),
        Program::FExit(program) => program.load(target, btf),
        Program::BtfTracePoint(program) => program.load(target, btf),
        Program::KProbe(program) => program.load(),
        Program::Iter(program) => program.load(target, btf),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
