//! The `premod` command: a thin layer over the library.

use std::process::ExitCode;

use anyhow::Result;
use premod::{
    cli::{Cli, Command},
    commands, exit_code,
    output::{
        printable,
        stderr::{Stderr, settled},
    },
    sentence,
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

fn main() -> ExitCode {
    premod::freeze::keep_if_asked();
    let cli = Cli::parse_harmlessly();
    let level = match cli.verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    // Ours, the kernel side's included; of the loader's only what is alarming.
    let ours = Targets::new()
        .with_target("premod", level)
        .with_default(LevelFilter::WARN);
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(|| Stderr))
        .with(ours)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let status = match runtime {
        Ok(runtime) => {
            let status = runtime.block_on(obey(cli));
            // What a thread still waits for, premod does not.
            runtime.shutdown_background();
            status
        }
        Err(error) => {
            premod::say!("premod: cannot begin: {error}");
            exit_code::ExitCode::Failure as u8
        }
    };
    ExitCode::from(status)
}

/// Does what was asked, and says what went wrong; returns the exit status.
async fn obey(cli: Cli) -> u8 {
    let status = run(cli).await.unwrap_or_else(|error| {
        // It may quote names that anybody chose.
        let sentence = printable(sentence(error.as_ref()).as_bytes());
        premod::say!("premod: {sentence}");
        exit_code::of(&error) as u8
    });
    settled().await;
    status
}

async fn run(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Trace(arguments) => {
            commands::trace::run(arguments.into_settings(cli.verbose)?).await
        }
        Command::Freeze(arguments) if arguments.unfreeze => {
            commands::thaw::run(arguments.into_thaw_settings()).await
        }
        Command::Freeze(arguments) => commands::freeze::run(arguments.into_settings()).await,
        Command::Status(arguments) => commands::status::run(arguments.json).await,
        Command::Thaw(arguments) => commands::thaw::run(arguments.into_settings()).await,
        Command::Doctor(arguments) => commands::doctor::run(arguments).await,
    }
}
