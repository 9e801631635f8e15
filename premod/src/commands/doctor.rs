//! `premod doctor`

use anyhow::Result;

use crate::{
    cli::DoctorArgs,
    doctor::{checks, gather::gather, report},
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
    super::show(&text)?;
    Ok(checks::exit_code(&problems) as u8)
}
