//! Judges what was gathered. Pure functions: the same facts always give the same verdict.

use serde::Serialize;

use super::gather::{Gathered, Refusal};
use crate::{
    exit_code::ExitCode,
    kernel::{attach::Kind, environment::KPROBES},
};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What does not work because of it.
    pub cost: String,
    /// How to mend it.
    pub remedy: String,
    /// Tracing does not work at all.
    pub fatal: bool,
    /// What `premod trace` would exit with.
    #[serde(skip)]
    pub code: ExitCode,
}

/// Everything that is wrong, the worst first.
#[must_use]
pub fn problems(gathered: &Gathered) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(capabilities(gathered));
    problems.extend(type_information(gathered));
    problems.extend(lockdown(gathered));
    problems.extend(bpf(gathered));
    problems.extend(facts(gathered));
    problems.extend(hooks(gathered));
    problems.extend(lsm(gathered));
    problems.extend(skips(gathered));
    problems.extend(probe(gathered));
    problems.sort_by_key(|problem| !problem.fatal);
    problems
}

/// What `premod doctor` exits with.
#[must_use]
pub fn exit_code(problems: &[Problem]) -> ExitCode {
    problems
        .iter()
        .find(|problem| problem.fatal)
        .map_or(ExitCode::Ok, |problem| problem.code)
}

fn fatal(code: ExitCode, what: String, cost: &str, remedy: &str) -> Problem {
    Problem {
        what,
        cost: cost.to_owned(),
        remedy: remedy.to_owned(),
        fatal: true,
        code,
    }
}

const NO_TRACE: &str = "premod cannot trace";

fn capabilities(gathered: &Gathered) -> Option<Problem> {
    if gathered.missing_capabilities.is_empty() {
        return None;
    }
    let missing = gathered.missing_capabilities.join(" and ");
    let (what, remedy) = if gathered.user_namespace {
        (
            format!("missing {missing} outside of this user namespace"),
            "run premod on the host rather than in a container, as root",
        )
    } else {
        (
            format!("missing {missing}"),
            "run premod as root: sudo premod doctor",
        )
    };
    Some(fatal(ExitCode::NotPermitted, what, NO_TRACE, remedy))
}

fn type_information(gathered: &Gathered) -> Option<Problem> {
    let error = gathered.btf.as_ref().err()?;
    Some(fatal(
        ExitCode::NoBtf,
        format!("no usable type information: {error}"),
        NO_TRACE,
        "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as every large distribution's is",
    ))
}

fn lockdown(gathered: &Gathered) -> Option<Problem> {
    gathered.environment.lockdown_forbids().then(|| {
        fatal(
            ExitCode::KernelRefuses,
            "the kernel is locked down (confidentiality mode)".to_owned(),
            "BPF programs may not read kernel memory, so premod cannot trace",
            "boot with lockdown=integrity or none",
        )
    })
}

fn bpf(gathered: &Gathered) -> Option<Problem> {
    match gathered.bpf.as_ref().err()? {
        Refusal::NotTried => None,
        Refusal::Forbidden(reason) => Some(fatal(
            ExitCode::KernelRefuses,
            format!("the kernel refuses BPF programs: {reason}"),
            NO_TRACE,
            "run premod on the host rather than in a container, or allow bpf() in its policy",
        )),
        Refusal::Other(error) => Some(fatal(
            ExitCode::KernelLacks,
            error.clone(),
            NO_TRACE,
            "use Linux 6.1 or later; please report this if yours is",
        )),
    }
}

fn facts(gathered: &Gathered) -> impl Iterator<Item = Problem> {
    // Facts that only the running programs can learn are missing as long as these cannot run.
    let learnt = gathered.bpf.is_ok();
    gathered
        .facts
        .iter()
        .filter(move |fact| fact.value.is_none() && (learnt || fact.source != "a scratch file"))
        .map(|fact| Problem {
            what: format!("{} was not found in {}", fact.name, fact.source),
            cost: fact.cost.to_owned(),
            remedy: if fact.source.starts_with("tracefs") {
                "mount tracefs: mount -t tracefs tracefs /sys/kernel/tracing".to_owned()
            } else {
                "please report this with the output of premod doctor --json".to_owned()
            },
            fatal: fact.essential,
            code: ExitCode::KernelLacks,
        })
}

fn hooks(gathered: &Gathered) -> impl Iterator<Item = Problem> {
    gathered.hooks.iter().filter_map(|hook| {
        let error = hook.state.as_ref().err()?;
        // Kernels before 6.2 have no file_truncate, and need none.
        if hook.cost.starts_with("none") {
            return None;
        }
        Some(Problem {
            what: format!("cannot see {}: {error}", hook.sees),
            cost: hook.cost.to_owned(),
            remedy: "please report this with the output of premod doctor --json".to_owned(),
            fatal: hook.essential,
            code: ExitCode::KernelLacks,
        })
    })
}

fn lsm(gathered: &Gathered) -> Option<Problem> {
    let environment = &gathered.environment;
    if environment.bpf_lsm_is_active() {
        return None;
    }
    let what = match &environment.lsms {
        Some(lsms) => format!("bpf is not among the active LSMs ({})", lsms.join(",")),
        None => "securityfs is not mounted, so the active LSMs are not known".to_owned(),
    };
    let remedy = match &environment.lsms {
        Some(lsms) => format!("boot with lsm={},bpf", lsms.join(",")),
        None => "mount -t securityfs securityfs /sys/kernel/security".to_owned(),
    };
    Some(Problem {
        what,
        cost: "tracing works without it; premod freeze does not".to_owned(),
        remedy,
        fatal: false,
        code: ExitCode::Ok,
    })
}

/// Programs that the kernel skips, where it has no others.
fn skips(gathered: &Gathered) -> Option<Problem> {
    let kinds = || gathered.hooks.iter().flat_map(|hook| &hook.state);
    let skipped = gathered.environment.preemption.is_anywhere()
        && kinds().next().is_some()
        && !kinds().any(|way| way.kind == Kind::Kprobe);
    let (why, remedy) = if gathered.environment.kprobes_off {
        (
            "kprobes are switched off",
            format!("switch them on: echo 1 > {KPROBES}"),
        )
    } else {
        (
            "it has no bpf_rdonly_cast",
            "use Linux 6.2 or later, or boot with preempt=voluntary".to_owned(),
        )
    };
    skipped.then(|| Problem {
        what: format!("the kernel preempts tasks that run in it, and {why}"),
        cost: "programs are skipped under load, and each skip is reported as lost".to_owned(),
        remedy,
        fatal: false,
        code: ExitCode::Ok,
    })
}

fn probe(gathered: &Gathered) -> Vec<Problem> {
    match &gathered.probe {
        None => Vec::new(),
        Some(Err(error)) => vec![fatal(
            ExitCode::Failure,
            format!("the live test could not be done: {error}"),
            "nobody knows whether events come",
            "give a writable directory on a filesystem that keeps dirty marks",
        )],
        Some(Ok(probed)) => probed
            .iter()
            .filter(|one| !one.seen)
            .map(|one| {
                fatal(
                    ExitCode::Failure,
                    format!(
                        "the live test's {} was not reported before it happened",
                        one.op.name()
                    ),
                    "premod would miss modifications on this filesystem",
                    "please report this with the output of premod doctor --json",
                )
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::environment::{Environment, Preemption};

    fn healthy() -> Gathered {
        Gathered {
            environment: Environment {
                release: "6.12".to_owned(),
                lsms: Some(vec!["yama".to_owned(), "bpf".to_owned()]),
                lockdown: Some("none".to_owned()),
                stable_pages: false,
                btrfs: false,
                preemption: Preemption::Never,
                kprobes_off: false,
            },
            capabilities: vec!["CAP_BPF".to_owned()],
            missing_capabilities: Vec::new(),
            user_namespace: false,
            btf: Ok(()),
            facts: Vec::new(),
            bpf: Ok(()),
            hooks: Vec::new(),
            filesystems: Vec::new(),
            probe: None,
        }
    }

    #[test]
    fn a_healthy_machine_has_no_problems() {
        assert_eq!(problems(&healthy()), []);
        assert_eq!(exit_code(&[]), ExitCode::Ok);
    }

    #[test]
    fn each_failure_has_the_exit_code_that_trace_would_have() {
        let with = |change: fn(&mut Gathered)| {
            let mut gathered = healthy();
            change(&mut gathered);
            exit_code(&problems(&gathered))
        };
        assert_eq!(
            with(|g| g.missing_capabilities.push("CAP_BPF".to_owned())),
            ExitCode::NotPermitted
        );
        assert_eq!(with(|g| g.btf = Err("none".to_owned())), ExitCode::NoBtf);
        let confidential = |g: &mut Gathered| {
            g.environment.lockdown = Some("confidentiality".to_owned());
        };
        assert_eq!(with(confidential), ExitCode::KernelRefuses);
        assert_eq!(
            with(|g| g.bpf = Err(Refusal::Forbidden("no".to_owned()))),
            ExitCode::KernelRefuses
        );
        assert_eq!(
            with(|g| g.probe = Some(Err("no".to_owned()))),
            ExitCode::Failure
        );
    }

    #[test]
    fn a_missing_lsm_is_told_and_not_fatal() {
        let mut gathered = healthy();
        gathered.environment.lsms = Some(vec!["yama".to_owned()]);
        let problems = problems(&gathered);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].remedy, "boot with lsm=yama,bpf");
        assert_eq!(exit_code(&problems), ExitCode::Ok);
    }
}
