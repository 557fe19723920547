//! `kubectl flowcar`: the webhook's own functions over files, and questions to the cluster.

mod check;
mod enable;
mod explain;
mod files;
mod remote;
mod resources;
mod yaml;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};

pub use explain::explain_pod;
pub(crate) use files::objects;
pub use files::{Files, inject_text, uninject_text};

use crate::config::{Config, Level, Settings};

/// What `kubectl flowcar` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Adds the sidecar to every pod and pod template of a file, as the webhook would.
    Inject(FileArgs),
    /// Takes out of a file what `inject` or the webhook added.
    Uninject(UninjectArgs),
    /// Says in one sentence why pods have, would get, or will not get a sidecar.
    Explain(ExplainArgs),
    /// Looks at everything that injection needs.
    Check(CheckArgs),
    /// Opts a workload in: `enable deployment/web`.
    Enable(TargetArgs),
    /// Opts a workload out again.
    Disable(TargetArgs),
    /// Counts, for each namespace, the pods that opted in and what became of them.
    Status,
}

/// Which cluster to ask.
#[derive(Clone, Debug, Default, Args)]
pub struct ClusterArgs {
    /// The namespace of objects that name none.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// flowcar's own namespace.
    #[arg(long, global = true, default_value = "flowcar-system")]
    pub flowcar_namespace: String,
}

/// What files are judged by.
#[derive(Clone, Debug, Args)]
pub struct FileArgs {
    /// The file; `-` is the standard input.
    #[arg(short, long)]
    pub filename: PathBuf,
    /// The controller's configuration in a file, instead of the cluster's.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Ask no cluster: the default configuration, native sidecars, no namespace labels but those in the file.
    #[arg(long)]
    pub offline: bool,
    /// What Pod Security enforces, where neither file nor cluster knows the namespace.
    #[arg(long)]
    pub pod_security: Option<String>,
    /// The cluster runs no native sidecars.
    #[arg(long)]
    pub no_native_sidecars: bool,
}

/// The file to clean.
#[derive(Clone, Debug, Args)]
pub struct UninjectArgs {
    /// The file; `-` is the standard input.
    #[arg(short, long)]
    pub filename: PathBuf,
}

/// What to explain.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// `pod/NAME`, `deployment/NAME` ...; every pod that opted in where left out.
    pub target: Option<String>,
    /// Explain the pods of a file instead.
    #[arg(short, long)]
    pub filename: Option<PathBuf>,
}

/// What to check.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Before installing: can flowcar be installed here?
    #[arg(long)]
    pub pre: bool,
}

/// A workload.
#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    /// `deployment/NAME`, `statefulset/NAME`, `cronjob/NAME`, or any kind with a pod template, as `rollout/NAME`.
    pub target: String,
}

/// Runs a command; whether all was well.
///
/// # Errors
/// Whatever kept the command from its work, with what to do next.
pub async fn run(command: Command, cluster: ClusterArgs) -> anyhow::Result<bool> {
    match command {
        Command::Inject(args) => inject(args, &cluster).await,
        Command::Uninject(args) => {
            print(&uninject_text(&read(&args.filename)?)?)?;
            Ok(true)
        }
        Command::Explain(args) => explain::run(args, &cluster).await,
        Command::Check(args) => check::run(args.pre, &cluster).await,
        Command::Enable(args) => enable::enable(&args.target, &cluster).await,
        Command::Disable(args) => enable::disable(&args.target, &cluster).await,
        Command::Status => remote::status(&cluster).await,
    }
}

async fn inject(args: FileArgs, cluster: &ClusterArgs) -> anyhow::Result<bool> {
    let text = read(&args.filename)?;
    let files = judged_by(&args, cluster, &text).await?;
    let (text, told) = inject_text(&text, &files)?;
    for line in told {
        eprintln!("{line}");
    }
    print(&text)?;
    Ok(true)
}

/// What a file is judged by: its own Namespaces, then the cluster, then the defaults.
async fn judged_by(args: &FileArgs, cluster: &ClusterArgs, text: &str) -> anyhow::Result<Files> {
    let mut files = Files::new(Settings::default(), cluster.flowcar_namespace.clone());
    files.namespace = cluster
        .namespace
        .clone()
        .unwrap_or_else(|| "default".to_owned());
    if !args.offline {
        match remote::Remote::connect(cluster).await {
            Ok(remote) => remote.tell(&mut files, text).await?,
            Err(error) => eprintln!("flowcar: no cluster is asked, the defaults hold: {error:#}"),
        }
    }
    if let Some(path) = &args.config {
        files.settings =
            Config::parse(&read(path)?).with_context(|| format!("in {}", path.display()))?;
    }
    if args.no_native_sidecars {
        files.native_sidecar = false;
    }
    if let Some(level) = &args.pod_security {
        files.pod_security = match level.as_str() {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            other => {
                anyhow::bail!("--pod-security={other}: expected privileged, baseline or restricted")
            }
        };
    }
    Ok(files)
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("reading the standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// A reader that hangs up has had enough.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("writing the result")
        }
        _ => Ok(()),
    }
}
