//! `cargo xtask`: sets up, builds, runs and tests premod.

mod bench;
mod bpf;
mod build;
mod demo;
mod exec;
mod lint;
mod paths;
mod progress;
mod run;
mod setup;
mod soak;
mod test;
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
    Bench(bench::Options),
    Build(build::Options),
    Demo(demo::Options),
    Run(run::Options),
    Setup(setup::Options),
    Soak(soak::Options),
    Test(test::Options),
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Bench(options) => options.run(),
        Task::Build(options) => options.run(),
        Task::Demo(options) => options.run(),
        Task::Run(options) => options.run(),
        Task::Setup(options) => options.run(),
        Task::Soak(options) => options.run(),
        Task::Test(options) => options.run(),
        Task::Vm(options) => options.run(),
    };
    result.unwrap_or_else(|error| {
        // One line: a backtrace, which RUST_BACKTRACE would add to the debug form, tells the user
        // nothing.
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
