//! Shows what was gathered and judged.

use std::fmt::Write;

use serde::Serialize;

use super::{checks::Problem, filesystems::Filesystem, gather::Gathered, probe::Probed};
use crate::{
    kernel::{attach::Attachment, environment::Environment, facts::Fact},
    output::{json_line, printable},
};

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    r#type: &'static str,
    works: bool,
    version: &'static str,
    kernel: &'a Environment,
    btf: bool,
    capabilities: &'a [String],
    missing_capabilities: &'a [String],
    facts: &'a [Fact],
    hooks: Vec<HookLine<'a>>,
    filesystems: &'a [Filesystem],
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<&'a [Probed]>,
    problems: &'a [Problem],
}

#[derive(Serialize)]
struct HookLine<'a> {
    sees: &'a str,
    essential: bool,
    attached: Option<Attachment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// The report as one JSON object on one line.
#[must_use]
pub fn json(gathered: &Gathered, problems: &[Problem]) -> Vec<u8> {
    let document = Document {
        schema: 1,
        r#type: "doctor",
        works: works(problems),
        version: env!("CARGO_PKG_VERSION"),
        kernel: &gathered.environment,
        btf: gathered.btf.is_ok(),
        capabilities: &gathered.capabilities,
        missing_capabilities: &gathered.missing_capabilities,
        facts: &gathered.facts,
        hooks: gathered
            .hooks
            .iter()
            .map(|hook| HookLine {
                sees: hook.sees,
                essential: hook.essential,
                attached: hook.state.as_ref().ok().copied(),
                error: hook.state.as_ref().err().map(String::as_str),
            })
            .collect(),
        filesystems: &gathered.filesystems,
        probe: gathered
            .probe
            .as_ref()
            .and_then(|probe| probe.as_deref().ok()),
        problems,
    };
    json_line(&document)
}

fn works(problems: &[Problem]) -> bool {
    !problems.iter().any(|problem| problem.fatal)
}

/// The report for people.
#[must_use]
pub fn text(gathered: &Gathered, problems: &[Problem]) -> Vec<u8> {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_text(&mut text, gathered, problems);
    text.into_bytes()
}

fn write_text(text: &mut String, gathered: &Gathered, problems: &[Problem]) -> std::fmt::Result {
    let environment = &gathered.environment;
    let list = |items: &[String]| {
        if items.is_empty() {
            "none".to_owned()
        } else {
            items.join(",")
        }
    };
    writeln!(text, "kernel        {}", environment.release)?;
    writeln!(
        text,
        "BTF           {}",
        if gathered.btf.is_ok() { "yes" } else { "no" }
    )?;
    let lsms = environment
        .lsms
        .as_deref()
        .map_or("not known".to_owned(), list);
    writeln!(text, "LSMs          {lsms}")?;
    writeln!(
        text,
        "lockdown      {}",
        environment.lockdown.as_deref().unwrap_or("not there")
    )?;
    writeln!(text, "preemption    {}", environment.preemption.describe())?;
    writeln!(text, "capabilities  {}", list(&gathered.capabilities))?;

    if !gathered.facts.is_empty() {
        writeln!(text, "\nFACT                            VALUE       SOURCE")?;
        for fact in &gathered.facts {
            let value = fact.value.map_or("missing".to_owned(), |value| {
                if value > 0xffff {
                    format!("{value:#x}")
                } else {
                    value.to_string()
                }
            });
            writeln!(text, "{:<31} {value:<11} {}", fact.name, fact.source)?;
        }
    }
    if !gathered.hooks.is_empty() {
        writeln!(text, "\nHOOK                                       SEES")?;
        for hook in &gathered.hooks {
            let way = match &hook.state {
                Ok(way) => format!(
                    "{} {}",
                    format!("{:?}", way.kind).to_lowercase(),
                    way.target
                ),
                Err(_) => "not attached".to_owned(),
            };
            writeln!(text, "{way:<42} {}", hook.sees)?;
        }
    }
    if !gathered.filesystems.is_empty() {
        writeln!(text, "\nFILESYSTEM  MOUNTS  PROMISE")?;
        for filesystem in &gathered.filesystems {
            let promise = filesystem.promise.describe();
            writeln!(
                text,
                "{:<11} {:>6}  {promise}",
                // FUSE lets users choose the second half.
                printable(filesystem.r#type.as_bytes()),
                filesystem.mounts
            )?;
        }
    }
    if let Some(Ok(probed)) = &gathered.probe {
        writeln!(text, "\nPROBE       RESULT")?;
        for one in probed {
            let result = if one.seen {
                "reported before it happened"
            } else {
                "NOT REPORTED"
            };
            writeln!(text, "{:<11} {result}", one.op.name())?;
        }
    }
    for problem in problems {
        let grade = if problem.fatal { "PROBLEM" } else { "note" };
        // It may quote paths.
        let what = printable(problem.what.as_bytes());
        writeln!(text, "\n{grade}: {what}")?;
        writeln!(text, "  cost:   {}", problem.cost)?;
        writeln!(text, "  remedy: {}", problem.remedy)?;
    }
    let verdict = if works(problems) {
        "premod trace works here"
    } else {
        "premod trace does not work here"
    };
    writeln!(text, "\n{verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::filesystems::Promise, exit_code::ExitCode, kernel::environment::Preemption,
    };

    #[test]
    fn nothing_raw_is_reported() {
        let hostile = "a\n\x1b[2J\u{9b}\u{202e}".to_owned();
        let gathered = Gathered {
            environment: Environment {
                release: "6.12".to_owned(),
                lsms: None,
                lockdown: None,
                stable_pages: false,
                btrfs: false,
                preemption: Preemption::Never,
                kprobes_off: false,
            },
            capabilities: Vec::new(),
            missing_capabilities: Vec::new(),
            user_namespace: false,
            btf: Ok(()),
            facts: Vec::new(),
            bpf: Ok(()),
            hooks: Vec::new(),
            filesystems: vec![Filesystem {
                r#type: hostile.clone(),
                mounted_at: hostile.clone(),
                mounts: 1,
                promise: Promise::LocalOnly,
            }],
            probe: None,
        };
        let problems = [Problem {
            what: hostile.clone(),
            cost: String::new(),
            remedy: String::new(),
            fatal: true,
            code: ExitCode::Failure,
        }];
        let text = String::from_utf8(text(&gathered, &problems)).unwrap();
        assert_eq!(
            text.matches("a\\x0a\\x1b[2J\\xc2\\x9b\\xe2\\x80\\xae")
                .count(),
            2
        );
        let line = String::from_utf8(json(&gathered, &problems)).unwrap();
        for output in [&text, &line] {
            assert!(
                !output.contains(['\x1b', '\u{9b}', '\u{202e}']),
                "{output:?}"
            );
        }
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["filesystems"][0]["mounted_at"], hostile);
    }
}
