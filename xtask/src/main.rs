//! `cargo xtask`: sets up, builds, runs and tests premod.

mod bpf;
mod build;
mod exec;
mod paths;
mod progress;
mod setup;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets up, builds, runs and tests premod.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Build(build::Options),
    Setup(setup::Options),
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Build(options) => options.run(),
        Task::Setup(options) => options.run(),
        Task::Vm(options) => options.run(),
    };
    result.unwrap_or_else(|error| {
        // One line: a backtrace, which RUST_BACKTRACE would add to the debug form, tells the user
        // nothing.
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
