//! The command `flowcar`: arguments, settings, runtime; the work is the library's.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use flowcar::{
    admin::{ProbeArgs, probe},
    check::{CheckArgs, check},
    config::{Config, Shared},
    exit::{self, Failure},
    export::{ExportArgs, export},
    hardening, logs, rights,
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
    /// Run a command, follow its flows, and report each one that ends
    Run(RunArgs),
    /// Follow a cgroup's flows and export them until SIGTERM (the sidecar)
    Export(ExportArgs),
    /// Tell whether flows can be followed here, by which source, and what stands in the way; with --send, whether receivers take
    /// what is sent. Exit status 69 if not
    Check(CheckArgs),
    /// Ask the sidecar of this container how it is, for exec probes: exit status 0 is yes
    Probe(ProbeArgs),
    /// Receive OTLP and print it, for trying things out
    Sink(SinkArgs),
}

fn main() -> ExitCode {
    if let Err(error) = hardening::at_start() {
        logs::last_line(format_args!(
            "flowcar: the kernel refuses to shut others out of this process's memory ({error})"
        ));
        return exit::SOFTWARE.into();
    }
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            // Help and version are no mistakes.
            let status = if error.use_stderr() { exit::USAGE } else { 0 };
            let _ = error.print();
            return status.into();
        }
    };
    // The standard library's own would wait for whoever reads standard error.
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
    // Before the settings are read: a probe is of the process that runs.
    if let Commands::Probe(args) = &command {
        return probe(args);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::SOFTWARE, format_args!("cannot start: {error}")))?;
    // A command's variables, and what has nothing to do with a sink, are no reason not to start.
    let shared = match command {
        Commands::Run(_) | Commands::Sink(_) => Shared::Inherited,
        _ => Shared::Ours,
    };
    // The files that settings name are read as they will be read later on: without a right.
    let config = rights::without(|| Config::from_env(shared));
    let status = runtime.block_on(async {
        // Mistakes in settings are a part of its answer.
        if let Commands::Check(args) = &command {
            return check(args, config).await;
        }
        let config = config.map_err(|mistakes| Failure::new(exit::USAGE, mistakes))?;
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
        }
    });
    // A write to a disk that hangs, or a name that is being looked up, is not waited for.
    runtime.shutdown_background();
    status
}
