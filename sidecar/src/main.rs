//! The command `flowcar`: arguments, settings, runtime; the work is the library's.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use flowcar::{
    capabilities,
    check::{CheckArgs, check},
    config::{Config, Shared},
    control::{FlowsArgs, ProbeArgs, flows, probe},
    exit::{self, Failure},
    export::{ExportArgs, export},
    files, hardening, logs,
    run::{RunArgs, run},
    sink::{SinkArgs, sink},
};

/// Follows TCP flows in the kernel and exports them as OTLP metrics and spans.
///
/// Settings are environment variables: OTEL_EXPORTER_OTLP_ENDPOINT and its kin as OpenTelemetry
/// specifies them, and flowcar's own, FLOWCAR_*; docs/configuration.md lists them all.
#[derive(Parser)]
#[command(name = "flowcar", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Subcommand)]
enum Commands {
    /// Run a command, follow its flows, and report each one that closes
    Run(RunArgs),
    /// Follow a cgroup's flows and export them until SIGTERM (the sidecar)
    Export(ExportArgs),
    /// Check whether flows can be followed here, by which source, and what prevents it; with --send, whether receivers take
    /// exports. Exit status 69 if not
    Check(CheckArgs),
    /// Ask the sidecar of this container for its health, for exec probes: exit status 0 is yes
    Probe(ProbeArgs),
    /// List the open connections of a running export, and its books
    Flows(FlowsArgs),
    /// Receive OTLP and print it, for trials
    Sink(SinkArgs),
}

/// What the runtime and its signals take, and some for the first files.
const DESCRIPTORS: usize = 16;

fn main() -> ExitCode {
    if let Err(error) = hardening::at_start() {
        logs::last_line(format_args!(
            "flowcar: the kernel refuses to protect this process's memory from other processes ({error})"
        ));
        return exit::SOFTWARE.into();
    }
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            // Help and version are no errors.
            let status = if error.use_stderr() { exit::USAGE } else { 0 };
            let _ = error.print();
            return status.into();
        }
    };
    // The standard library's own would wait for the reader of standard error.
    std::panic::set_hook(Box::new(|panic| {
        logs::last_line(format_args!("flowcar: {panic}"));
    }));
    match start(command) {
        Ok(status) => status.into(),
        Err(failure) => {
            logs::last_line(format_args!("flowcar: {}", failure.message));
            failure.status.into()
        }
    }
}

fn start(command: Commands) -> Result<u8, Failure> {
    // Before the settings are read: these ask the process that runs.
    match &command {
        Commands::Probe(args) => return probe(args),
        Commands::Flows(args) => return flows(args),
        _ => {}
    }
    // The runtime would panic without.
    if !files::has_descriptors(DESCRIPTORS) {
        let message = format_args!("cannot start: {}", files::NO_DESCRIPTOR);
        return Err(Failure::new(exit::SOFTWARE, message));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::SOFTWARE, format_args!("cannot start: {error}")))?;
    // A command's variables, and variables that a sink does not use, never prevent the start.
    let shared = match command {
        Commands::Run(_) | Commands::Sink(_) => Shared::Restored,
        _ => Shared::Ours,
    };
    // The files that settings name are read as later on: without a capability.
    let config = capabilities::without(|| Config::from_env(shared));
    let status = runtime.block_on(async {
        // Errors in settings are part of its report.
        if let Commands::Check(args) = &command {
            return check(args, config).await;
        }
        let config = config.map_err(|errors| Failure::new(exit::USAGE, errors))?;
        logs::start(&config, matches!(command, Commands::Run(_)));
        if !matches!(command, Commands::Sink(_)) {
            logs::notices(&config);
        }
        match command {
            Commands::Check(args) => check(&args, Ok(config)).await,
            Commands::Run(args) => run(args, &config).await,
            Commands::Export(args) => export(args, &config).await,
            Commands::Sink(args) => sink(args).await,
            Commands::Probe(args) => probe(&args),
            Commands::Flows(args) => flows(&args),
        }
    });
    // A write to a disk that hangs, or a name that is being resolved, is not waited for.
    runtime.shutdown_background();
    status
}
