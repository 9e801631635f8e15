//! Takes the BPF object into the kernel.

use aya::{Ebpf, EbpfError, EbpfLoader, programs::ProgramError};
use premod_common::facts::{Facts, Settings};

use super::{environment::Environment, relocate::with_facts};
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
    /// How much the programs themselves say.
    pub log_level: LogLevel,
}

/// Creates the maps and hands the facts over. Programs are loaded one by one when they are attached.
///
/// # Errors
/// If the kernel refuses to create maps.
pub fn object(setup: &Setup, environment: &Environment) -> Result<Ebpf, Error> {
    EbpfLoader::new()
        .override_global("SETTINGS", &setup.settings, true)
        .override_global("AYA_LOG_LEVEL", &setup.log_level, false)
        .map_max_entries("EVENTS", setup.buffer_size)
        .map_max_entries("INODES", setup.inodes)
        .load(&with_facts(OBJECT, &setup.facts)?)
        .map_err(|error| explain_maps(&error, environment))
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
        let statistics = ["verification time", "stack depth", "processed "];
        let complaint = log
            .lines()
            .rev()
            .find(|line| !line.is_empty() && !statistics.iter().any(|word| line.starts_with(word)));
        return Error::Rejected {
            program: program.to_owned(),
            reason: complaint.unwrap_or("it does not say why").to_owned(),
        };
    }
    Error::kernel(format!("cannot load or attach {program}"), error)
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
