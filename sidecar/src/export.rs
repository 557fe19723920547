//! `flowcar export`: the sidecar. Attach, export until told to stop, then flush within a deadline.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    admin::Desk,
    config::{Config, SourceChoice},
    exit::{self, Failure},
    follower::Follower,
    handover::Keeper,
    memory,
    otlp::exporter::{Exporter, Patience},
    rights,
    scope::{self, ScopeError},
    session::Session,
    source::{self, Source, cause::Cause},
};

/// What to follow.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The cgroup2 directory whose flows are followed, those of the cgroups below it included [default: that of the pod
    /// that flowcar runs in; with FLOWCAR_SOURCE=inet_diag the whole network namespace]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
}

/// Follows and exports until SIGTERM or SIGINT. A second signal ends it at once.
///
/// # Errors
/// [`Failure`] if the flows cannot be followed. An endpoint that cannot be reached is no failure.
pub async fn export(args: ExportArgs, config: &Config) -> Result<u8, Failure> {
    let config = &config.clone().with_default_endpoint();
    let (choice, cgroup) = followed(args.cgroup.as_deref(), config)?;
    let keeper = config.state.as_deref().and_then(keeper);
    let before = keeper.as_ref().and_then(Keeper::read);
    let source = Source::open(choice, cgroup.as_deref(), config.programs())?;
    rights::give_away(source.still_needs())?;
    let name = source.name();
    let mut follower = Follower::new(source, &config.limits());
    if let Some(keeper) = &keeper {
        follower.hand_over(before.as_ref(), keeper.place());
    }
    match &cgroup {
        Some(cgroup) => {
            tracing::info!(cgroup = %cgroup.display(), source = name, "following its TCP flows");
        }
        None => tracing::info!(source = name, "following the network namespace's TCP flows"),
    }
    let exporter = Exporter::start_keeping(config, name, None, keeper);
    let mut session = Session::new(follower, exporter, config.report_interval / 2, config);
    let signals = || -> std::io::Result<_> {
        Ok((
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        ))
    };
    let (mut terminate, mut interrupt) = signals().map_err(|error| {
        Failure::new(
            exit::SOFTWARE,
            format_args!("cannot catch signals: {error}"),
        )
    })?;
    let desk = Desk::open();
    memory::let_go_of_start();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            asked = desk.asked() => asked.answer(session.health()),
            () = session.step(|_, _| {}) => {}
        }
    }
    session.conclude(|_, _| {});
    let books = session.follower().books();
    tracing::info!(
        opened = books.opened,
        closed = books.closed,
        live = books.live,
        lost = books.lost_total(),
        failed = books.failed,
        "stopping: sending what is left"
    );
    tokio::select! {
        () = session.close(config.shutdown_timeout, Patience::Whole) => Ok(0),
        _ = terminate.recv() => Ok(exit::SOFTWARE),
        _ = interrupt.recv() => Ok(exit::SOFTWARE),
    }
}

/// Without it flowcar follows as well, and the flowcar after it counts anew.
fn keeper(directory: &Path) -> Option<Keeper> {
    Keeper::open(directory)
        .inspect_err(|error| {
            tracing::warn!(%error, "FLOWCAR_STATE is of no use: /proc does not tell this boot and network namespace");
        })
        .ok()
}

/// The source and the cgroup that was named, or the pod's. Without programs and without a name it is the network
/// namespace, which is the pod's too. So it is for `auto` where there is no cgroup2, which programs are attached to.
fn followed(
    named: Option<&Path>,
    config: &Config,
) -> Result<(SourceChoice, Option<PathBuf>), ScopeError> {
    if let Some(path) = named {
        return Ok((config.source, Some(scope::check(path)?)));
    }
    if config.source == SourceChoice::InetDiag {
        return Ok((config.source, None));
    }
    let found = match scope::discover(&config.host_cgroup) {
        Err(error) if config.source == SourceChoice::Auto && scope::is_version_1_only() => {
            source::tell_refusal(&Cause::CgroupV1, &error);
            return Ok((SourceChoice::InetDiag, None));
        }
        found => found?,
    };
    // A static pod's cgroup has another uid than the API's: the inode is the proof, the uid a hint.
    if let Some(uid) = config.pod.uid.as_ref().filter(|uid| **uid != found.uid) {
        tracing::warn!(
            cgroup = %found.path.display(),
            "the pod's cgroup is named by another uid than the API's ({uid}): right for a static pod only"
        );
    }
    Ok((config.source, Some(found.path)))
}
