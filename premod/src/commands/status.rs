//! `premod status`

use anyhow::Result;

use super::{complain, show};
use crate::{
    exit_code::ExitCode,
    freeze::{
        control::{Request, ask_all},
        registry::Registry,
    },
    output::{json_line, sets},
};

/// Asks every freeze how it is and shows the answers; returns the exit status.
///
/// # Errors
/// If the run directory cannot be used, or stdout cannot be written.
pub async fn run(json: bool) -> Result<u8> {
    let peers = match Registry::find()? {
        Some(registry) => registry.peers()?,
        None => Vec::new(),
    };
    let mut code = ExitCode::Ok;
    let mut reports = Vec::new();
    for answer in ask_all(&peers, Request::Status).await {
        match answer {
            Ok(report) => reports.extend(report),
            Err(error) => code = complain(&error),
        }
    }
    if json {
        show(&reports.iter().flat_map(json_line).collect::<Vec<_>>())?;
    } else if !reports.is_empty() {
        show(sets::table(&reports).as_bytes())?;
    }
    if reports.is_empty() && code == ExitCode::Ok {
        say!("premod: nothing is frozen");
    }
    Ok(code as u8)
}
