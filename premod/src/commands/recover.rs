//! `premod thaw --recover`

use anyhow::Result;
use serde::Serialize;

use super::show;
use crate::{
    events::Pid,
    exit_code::ExitCode,
    freeze::{
        keeper::{self, Recovered},
        report::CommName,
    },
    output::{json::SCHEMA, json_line, printable},
};

#[derive(Serialize)]
struct RecoveredLine {
    schema: u32,
    r#type: &'static str,
    continued: Vec<ProcessField>,
    left: Vec<ProcessField>,
}

#[derive(Serialize)]
struct ProcessField {
    pid: Pid,
    #[serde(flatten)]
    comm: CommName,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Continues what a premod that was killed has left stopped, and tells. That some still are is a failure.
pub(super) fn run(json: bool) -> Result<ExitCode> {
    tell(&keeper::recover()?, json)
}

fn tell(recovered: &Recovered, json: bool) -> Result<ExitCode> {
    let Recovered { continued, left } = recovered;
    for (pid, comm) in continued {
        say!("premod: continued: {} ({})", printable(comm), pid.0);
    }
    for (pid, comm, why) in left {
        let why = printable(why.as_bytes());
        say!(
            "premod: still stopped: {} ({}): {why}",
            printable(comm),
            pid.0
        );
    }
    if continued.is_empty() && left.is_empty() {
        say!("premod: nothing was left stopped");
    }
    if json {
        let field = |pid: &Pid, comm: &bytes::Bytes, why: Option<&String>| ProcessField {
            pid: *pid,
            comm: CommName(comm.clone()),
            why: why.cloned(),
        };
        show(&json_line(&RecoveredLine {
            schema: SCHEMA,
            r#type: "recovered",
            continued: continued
                .iter()
                .map(|(pid, comm)| field(pid, comm, None))
                .collect(),
            left: left
                .iter()
                .map(|(pid, comm, why)| field(pid, comm, Some(why)))
                .collect(),
        }))?;
    }
    Ok(if left.is_empty() {
        ExitCode::Ok
    } else {
        ExitCode::Failure
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_still_stopped_makes_it_a_failure() {
        let mut recovered = Recovered::default();
        assert_eq!(tell(&recovered, false).unwrap(), ExitCode::Ok);
        recovered.continued.push((Pid(7), "a".into()));
        assert_eq!(tell(&recovered, true).unwrap(), ExitCode::Ok);
        let why = "stopped by somebody else too".to_owned();
        recovered.left.push((Pid(8), "b".into(), why));
        assert_eq!(tell(&recovered, true).unwrap(), ExitCode::Failure);
    }
}
