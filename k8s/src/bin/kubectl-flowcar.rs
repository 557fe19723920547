//! `kubectl flowcar`. Everything is in the library; this only reads the command line.

use std::process::ExitCode;

use clap::Parser;
use flowcar_k8s::cli::{ClusterArgs, Command, run};

/// Injects flowcar, and explains what became of it.
#[derive(Parser)]
#[command(name = "kubectl-flowcar", bin_name = "kubectl flowcar", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command, arguments.cluster).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("flowcar: {error:#}");
            ExitCode::FAILURE
        }
    }
}
