//! The command `flowcar`: arguments, settings, runtime; the work is the library's.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use flowcar::{
    capabilities,
    check::{CheckArgs, check},
    config::{Config, Shared},
    control::{FlowsArgs, ProbeArgs, flows, probe},
    exit::{self, Failure},
    export::{ExportArgs, export},
    files, hardening, logs,
    manual::{ManualArgs, manual},
    run::{RunArgs, run},
    sink::{SinkArgs, sink},
    top::{TopArgs, top},
};

/// Follows TCP flows in the kernel and exports them as OTLP metrics and spans.
///
/// Settings are environment variables: OTEL_EXPORTER_OTLP_ENDPOINT and its kin as OpenTelemetry
/// specifies them, and flowcar's own, FLOWCAR_*; docs/configuration.md lists them all.
#[derive(Parser)]
#[command(name = "flowcar", version, max_term_width = 100, after_long_help = STATUSES)]
struct Cli {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Subcommand)]
enum Commands {
    #[command(after_help = "\
Examples:
  sudo flowcar run -- curl -s https://example.com/
  sudo flowcar run --format json -o flows.json -- ./load-test
  sudo flowcar run --report report.html -- ./load-test
  sudo FLOWCAR_EXCHANGE=on flowcar run -- psql -c 'select 1'")]
    /// Run a command, follow its flows, and report them: by peer, and one by one
    Run(RunArgs),
    #[command(after_help = "\
Examples:
  export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317
  sudo -E flowcar export --cgroup /sys/fs/cgroup/system.slice/nginx.service
  FLOWCAR_SOURCE=inet_diag flowcar export")]
    /// Follow a cgroup's flows and export them until SIGTERM (the sidecar)
    Export(ExportArgs),
    #[command(after_help = "\
Examples:
  flowcar check
  flowcar check --send
  flowcar check --fix-hints
  kubectl exec POD -c flowcar -- flowcar check --format json")]
    /// Check whether flows can be followed here, by which source, and what prevents it; with --send, whether receivers take
    /// exports. Exit status 69 if not
    Check(CheckArgs),
    /// Ask the sidecar of this container for its health, for exec probes: exit status 0 is yes
    Probe(ProbeArgs),
    #[command(after_help = "\
Examples:
  kubectl exec POD -c flowcar -- flowcar flows
  sudo flowcar flows --cgroup /sys/fs/cgroup/system.slice/nginx.service
  sudo flowcar flows --format json | head -1")]
    /// List the open connections of a running export, and its books
    Flows(FlowsArgs),
    #[command(after_help = "\
Examples:
  kubectl exec -it POD -c flowcar -- flowcar top
  sudo flowcar top --cgroup /sys/fs/cgroup/system.slice/nginx.service
  flowcar top --once
  flowcar top --format json --once | jq '.peers[].name'")]
    /// Show the peers of a running export on the terminal: rates, latencies, and what holds them back
    Top(TopArgs),
    #[command(after_help = "\
Examples:
  flowcar sink
  flowcar sink --format json | grep flowcar.tcp.connection.failed")]
    /// Receive OTLP and print it, for trials
    Sink(SinkArgs),
    #[command(after_help = "\
Examples:
  sudo flowcar manual /usr/local/share
  flowcar manual ~/.local/share")]
    /// Write man pages, and completions for bash, zsh and fish
    Manual(ManualArgs),
}

/// As docs/commands.md has them.
const STATUSES: &str = "\
Exit status:
    0  the command did what it was asked; `run`: the status of its command
    1  `probe`: the answer is no
   64  a setting or an argument is wrong
   69  nothing can follow connections here, nobody answers, or a receiver did not take what it was sent
   70  the kernel cannot do it, or something broke
   73  a file cannot be written
   75  `export`: start it again
   77  a capability or another right is missing
  126  `run`: the command was found and cannot be executed
  127  `run`: the command was not found";

/// What flowcar takes with everything on is some 45: the runtime and its signals, programs, maps and links, netlink, a connection for each
/// signal, and files.
const DESCRIPTORS: usize = 64;

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
        Commands::Top(args) => return top(args),
        Commands::Manual(args) => return manual(args, &Cli::command()),
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
            Commands::Top(args) => top(&args),
            Commands::Manual(args) => manual(&args, &Cli::command()),
        }
    });
    // A write to a disk that hangs, or a name that is being resolved, is not waited for.
    runtime.shutdown_background();
    status
}
