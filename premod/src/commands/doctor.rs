//! `premod doctor`

use std::io::Write;

use anyhow::Result;

use crate::{
    cli::DoctorArgs,
    doctor::{checks, gather::gather, report},
    exit_code::{ExitCode, Failed},
};

/// Examines this machine and prints a report; returns the exit status.
///
/// # Errors
/// If the report cannot be written.
pub async fn run(arguments: DoctorArgs) -> Result<u8> {
    let gathered = gather(arguments.probe).await;
    let problems = checks::problems(&gathered);
    let text = if arguments.json {
        report::json(&gathered, &problems)
    } else {
        report::text(&gathered, &problems)
    };
    match std::io::stdout().write_all(&text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let sentence = format!("cannot write stdout: {error}");
            Err(Failed {
                code: ExitCode::Output,
                sentence,
            }
            .into())
        }
        _ => Ok(checks::exit_code(&problems) as u8),
    }
}
