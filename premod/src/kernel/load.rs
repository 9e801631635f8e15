//! Takes the BPF object into the kernel.

use std::thread::{Builder, JoinHandle};

use aya::{Ebpf, EbpfError, EbpfLoader, programs::ProgramError};
use premod_common::facts::{Facts, Settings};

use super::{
    environment::Environment,
    relocate::{set_global, with_facts},
};
use crate::error::{Error, chain};

/// The programs, as the build script compiled them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/premod.bpf.o"));

/// Level of the programs' own messages: 0 is silence, 4 is debug.
pub type LogLevel = u8;

/// How the object is set up.
pub struct Setup {
    /// The kernel's layout.
    pub facts: Facts,
    /// This run's settings.
    pub settings: Settings,
    /// Size of the event ring buffer in bytes: a power of two and a multiple of the page size.
    pub buffer_size: u32,
    /// Most inodes that can be tracked at a time.
    pub inodes: u32,
    /// How many CPUs there may be ([`cpus`]).
    pub cpus: u32,
    /// How much the programs themselves say.
    pub log_level: LogLevel,
}

/// How many CPUs there may be.
///
/// # Errors
/// If the kernel does not tell (sysfs).
pub fn cpus() -> Result<u32, Error> {
    let failed = |(path, error): (_, std::io::Error)| {
        Error::kernel(
            format!("cannot learn from {path} how many CPUs there are"),
            &error,
        )
    };
    aya::util::nr_cpus().map(|cpus| cpus as u32).map_err(failed)
}

/// aya's loader. When it is made it reads all of the kernel's types, which takes longer than all else of a start: one
/// serves for several objects, and is made beside other things.
pub struct Loader(EbpfLoader<'static>);

impl Loader {
    /// Begins to make one, if there can be a thread for it.
    #[must_use]
    pub fn in_background() -> Option<JoinHandle<Self>> {
        Builder::new().spawn(|| Self(EbpfLoader::new())).ok()
    }

    /// The one that was begun.
    #[must_use]
    pub fn ready(making: Option<JoinHandle<Self>>) -> Self {
        making
            .and_then(|making| making.join().ok())
            .unwrap_or_else(|| Self(EbpfLoader::new()))
    }

    /// Creates the maps and hands the facts over. Programs are loaded one by one when they are attached.
    ///
    /// # Errors
    /// If the kernel refuses to create maps.
    pub fn object(&mut self, setup: &Setup, environment: &Environment) -> Result<Ebpf, Error> {
        self.0
            .map_max_entries("EVENTS", setup.buffer_size)
            .map_max_entries("INODES", setup.inodes)
            .map_max_entries("COUNTERS", setup.cpus)
            .load(&prepared(setup)?)
            .map_err(|error| explain_maps(&error, environment))
    }
}

/// The object as it is loaded.
fn prepared(setup: &Setup) -> Result<Vec<u8>, Error> {
    let mut object = with_facts(OBJECT, &setup.facts)?;
    set_global(&mut object, "SETTINGS", setup.settings.as_bytes())?;
    set_global(&mut object, "AYA_LOG_LEVEL", &[setup.log_level])?;
    Ok(object)
}

/// Turns the loader's answer about the maps into a sentence.
pub(crate) fn explain_maps(error: &EbpfError, environment: &Environment) -> Error {
    let reason = chain(error);
    if reason.contains("os error 1)") {
        refused(environment, &reason)
    } else {
        Error::Kernel {
            context: "cannot create BPF maps".to_owned(),
            reason,
        }
    }
}

/// Turns the loader's answer about one program into a sentence.
pub(super) fn explain(program: &str, error: &ProgramError, environment: &Environment) -> Error {
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    {
        if io_error.raw_os_error() == Some(libc::EPERM) {
            return refused(environment, &io_error.to_string());
        }
        let log = verifier_log.to_string();
        tracing::debug!(program, "verifier log:\n{log}");
        return Error::Rejected {
            program: program.to_owned(),
            reason: complaint(&log).to_owned(),
        };
    }
    if let ProgramError::SyscallError(failure) = error
        && failure.io_error.raw_os_error() == Some(libc::E2BIG)
    {
        return Error::Kernel {
            context: format!("cannot attach {program}"),
            reason: "the kernel takes 38 programs at one of its functions, and others have taken them: all premod freezes together take 2, other tools may take some".to_owned(),
        };
    }
    Error::kernel(format!("cannot load or attach {program}"), error)
}

/// What the verifier complains of: the last line of its log that is not about its work.
fn complaint(log: &str) -> &str {
    let is_statistics = |line: &str| {
        let begins = ["verification time", "stack depth", "processed "];
        // 7.x says so of each function.
        let of_function = line.starts_with("subprog ") && line.contains(" insns_self ");
        of_function || begins.iter().any(|begin| line.starts_with(begin))
    };
    let mut lines = log.lines().rev();
    let complaint = lines.find(|line| !line.is_empty() && !is_statistics(line));
    complaint.unwrap_or("it does not say why")
}

/// The kernel keeps programs like ours out: by lockdown, or by a policy that gave this answer.
pub(crate) fn refused(environment: &Environment, answer: &str) -> Error {
    let reason = if environment.lockdown_forbids() {
        "it is locked down (confidentiality mode), which keeps BPF from reading kernel memory; boot with lockdown=integrity or less".to_owned()
    } else {
        format!(
            "it answered \"{answer}\" although the capabilities are there; a policy of this machine or container forbids it"
        )
    };
    Error::KernelRefuses {
        release: environment.release.clone(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_verifier_complains_of() {
        let log = "R1 type=scalar expected=fp\nverification time 12 usec\nstack depth 8+0\n\
                   subprog 22 (step) static insns_self 0 insns_total 0\nprocessed 9 insns (limit 1000000)\n\n";
        assert_eq!(complaint(log), "R1 type=scalar expected=fp");
        assert_eq!(complaint("subprog 1 is global\n"), "subprog 1 is global");
        assert_eq!(complaint(""), "it does not say why");
    }

    #[test]
    fn globals_get_their_values_and_nothing_else_does() {
        let mut object = OBJECT.to_vec();
        assert!(set_global(&mut object, "SETTINGS", &[1]).is_err());
        assert!(set_global(&mut object, "NO_SUCH_THING", &[1]).is_err());
        assert!(object == OBJECT);
        set_global(&mut object, "SETTINGS", &[0xa5; size_of::<Settings>()]).unwrap();
        let changed = object.iter().zip(OBJECT).filter(|(new, old)| new != old);
        assert_eq!(changed.count(), size_of::<Settings>());
    }

    #[test]
    fn every_mark_in_the_programs_becomes_a_fact() {
        let object = with_facts(OBJECT, &Facts::default()).unwrap();
        assert_ne!(object, OBJECT, "the programs have no marks");
        let others = Facts {
            inode_i_sb: 40,
            mapping_dirty_mark: 1,
            ..Facts::default()
        };
        assert_ne!(with_facts(OBJECT, &others).unwrap(), object);
        assert!(
            with_facts(&object, &others).unwrap() == object,
            "a mark was left"
        );
    }
}
