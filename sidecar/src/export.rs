//! `flowcar export`: the sidecar. Attach, export until told to stop, then flush within a deadline.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::Config,
    exit::{self, Failure},
    follower::Follower,
    otlp::exporter::Exporter,
    scope,
    session::Session,
    source::Source,
};

/// What to follow.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The cgroup2 directory whose flows are followed, those of the cgroups below it included. With
    /// FLOWCAR_SOURCE=inet_diag it may be left out: then all of the network namespace are
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
}

/// Follows and exports until SIGTERM or SIGINT. A second signal ends it at once.
///
/// # Errors
/// [`Failure`] if the flows cannot be followed. An endpoint that cannot be reached is no failure.
pub async fn export(args: ExportArgs, config: &Config) -> Result<u8, Failure> {
    let config = &config.clone().with_default_endpoint();
    let cgroup = args.cgroup.as_deref().map(scope::check).transpose()?;
    let source = Source::open(config.source, cgroup.as_deref(), config.ring_bytes)?;
    let name = source.name();
    let follower = Follower::new(source, &config.limits());
    match &cgroup {
        Some(cgroup) => {
            tracing::info!(cgroup = %cgroup.display(), source = name, "following its TCP flows");
        }
        None => tracing::info!(source = name, "following the network namespace's TCP flows"),
    }
    let exporter = Exporter::start(config, name, None);
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
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
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
        () = session.close(config.shutdown_timeout) => Ok(0),
        _ = terminate.recv() => Ok(exit::SOFTWARE),
        _ = interrupt.recv() => Ok(exit::SOFTWARE),
    }
}
