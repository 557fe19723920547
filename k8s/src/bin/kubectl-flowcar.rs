//! `kubectl flowcar`. Everything is in the library; this only reads the command line.

use std::process::ExitCode;

use clap::Parser;
use flowcar_k8s::cli::{ClusterArgs, Command, run, sentence};

/// Injects flowcar, and explains the result.
#[derive(Parser)]
#[command(name = "kubectl-flowcar", bin_name = "kubectl flowcar", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    cluster: ClusterArgs,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("flowcar: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(arguments.command, arguments.cluster));
    // Do not wait for a name lookup of a cluster whose request timed out.
    runtime.shutdown_background();
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("flowcar: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}
