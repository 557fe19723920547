//! `kubectl flowcar`: the webhook's own functions over files, and questions to the cluster.

mod check;
mod enable;
mod explain;
mod files;
mod glob;
mod input;
mod remote;
mod resources;
mod sentence;
mod top;
mod yaml;

use std::{io::Write as _, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
pub use explain::explain_pod;
pub use files::{Files, Rewritten, inject_text, uninject_text};
pub use input::Sources;
use input::{Input, join};
pub use sentence::sentence;
use serde_json::Value;
pub use top::TopArgs;

use crate::config::{Config, Level, Settings};

/// What `kubectl flowcar` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Adds the sidecar to every pod and pod template of a file, as the webhook would.
    Inject(FileArgs),
    /// Takes out of a file what `inject` or the webhook added.
    Uninject(UninjectArgs),
    /// Explains in one sentence why pods have, would get, or will not get a sidecar.
    Explain(ExplainArgs),
    /// Checks everything that injection needs.
    Check(CheckArgs),
    /// Opts a workload in: `enable deployment/web`.
    Enable(TargetArgs),
    /// Opts a workload out again.
    Disable(TargetArgs),
    /// Counts, for each namespace, the pods that opted in, by their state.
    Status,
    /// Shows the peers of a workload on the terminal, of all its sidecars together: `top deployment/web`.
    Top(TopArgs),
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
    /// The files.
    #[command(flatten)]
    pub sources: Sources,
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

/// The files to clean.
#[derive(Clone, Debug, Args)]
pub struct UninjectArgs {
    /// The files.
    #[command(flatten)]
    pub sources: Sources,
}

/// What to explain.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// `pod/NAME`, `deployment/NAME` ...; every pod that opted in where left out.
    pub target: Option<String>,
    /// Explain the pods of these files instead.
    #[command(flatten)]
    pub sources: Sources,
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

/// Runs a command; returns whether everything succeeded.
///
/// # Errors
/// Why the command failed, with what to do next.
pub async fn run(command: Command, cluster: ClusterArgs) -> anyhow::Result<bool> {
    match command {
        Command::Inject(args) => inject(args, &cluster).await,
        Command::Uninject(args) => rewrite(&args.sources.read()?, uninject_text),
        Command::Explain(args) => explain::run(args, &cluster).await,
        Command::Check(args) => check::run(args.pre, &cluster).await,
        Command::Enable(args) => enable::enable(&args.target, &cluster).await,
        Command::Disable(args) => enable::disable(&args.target, &cluster).await,
        Command::Status => remote::status(&cluster).await,
        Command::Top(args) => top::run(args, &cluster).await,
    }
}

async fn inject(args: FileArgs, cluster: &ClusterArgs) -> anyhow::Result<bool> {
    let inputs = args.sources.read()?;
    let files = judged_by(&args, cluster, &every_object(&inputs)?).await?;
    rewrite(&inputs, |text| inject_text(text, &files))
}

/// The objects of all files.
fn every_object(inputs: &[Input]) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for input in inputs {
        all.extend(files::objects(&input.text).with_context(|| input.name.clone())?);
    }
    Ok(all)
}

/// Writes every file anew, as one stream. Nothing is written unless every file can be read; whether every object
/// that had to be was rewritten.
fn rewrite(
    inputs: &[Input],
    change: impl Fn(&str) -> anyhow::Result<Rewritten>,
) -> anyhow::Result<bool> {
    let (mut texts, mut all_messages, mut is_complete) = (Vec::new(), Vec::new(), true);
    for input in inputs {
        let rewritten = change(&input.text).with_context(|| input.name.clone())?;
        let file = if inputs.len() > 1 {
            format!("{}: ", input.name)
        } else {
            String::new()
        };
        all_messages.extend(
            rewritten
                .messages
                .iter()
                .map(|line| format!("{file}{line}")),
        );
        is_complete &= rewritten.is_complete;
        texts.push((input, rewritten.text));
    }
    for line in all_messages {
        eprintln!("{line}");
    }
    print(&join(&texts))?;
    Ok(is_complete)
}

/// What files are judged by: their own Namespaces, then the cluster, then the defaults.
async fn judged_by(
    args: &FileArgs,
    cluster: &ClusterArgs,
    objects: &[Value],
) -> anyhow::Result<Files> {
    let mut files = Files::new(Settings::default(), cluster.flowcar_namespace.clone());
    files.namespace = cluster
        .namespace
        .clone()
        .unwrap_or_else(|| "default".to_owned());
    if !args.offline {
        match remote::Remote::connect(cluster).await {
            Ok(remote) => remote.print_messages(&mut files, objects).await?,
            Err(error) => eprintln!(
                "flowcar: no cluster is asked, the defaults hold: {}",
                sentence(&error)
            ),
        }
    }
    files.learn_namespaces(objects);
    if let Some(path) = &args.config {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        files.settings = Config::parse(&text).with_context(|| format!("in {}", path.display()))?;
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

/// A reader that closes the pipe is no error.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    match std::io::stdout().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("writing the result")
        }
        _ => Ok(()),
    }
}
