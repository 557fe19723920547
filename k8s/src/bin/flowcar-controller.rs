//! `flowcar-controller`: the mutating webhook. Everything is in the library; this only starts and stops it.

use std::process::ExitCode;

use clap::Parser;
use flowcar_k8s::controller::{Options, run};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Injects flowcar into pods that opted in.
#[derive(Parser)]
#[command(name = "flowcar-controller", version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("FLOWCAR_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match run(arguments.options, asked_to_stop()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn asked_to_stop() {
    let mut term = signal(SignalKind::terminate()).expect("a handler for SIGTERM");
    let mut int = signal(SignalKind::interrupt()).expect("a handler for SIGINT");
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
