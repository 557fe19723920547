//! `flowcar export`: the sidecar. It attaches, exports until SIGTERM, then flushes within a deadline.

mod again;
mod containers;
mod followed;
mod signals;

use std::path::{Path, PathBuf};

use self::{
    again::{changed, check_links, follow_again},
    containers::{container_stats, origins, tree},
    followed::followed,
    signals::Signals,
};
use crate::{
    capabilities,
    cgroup::Watch,
    checkpoint::CheckpointFile,
    config::{Config, Export},
    container_stats::Root,
    control::ControlServer,
    exit::{self, Failure},
    follower::Follower,
    hardening::{self, Needs},
    host::Host,
    memory,
    otlp::exporter::{Exporter, Patience, announce},
    session::{End, Session, within_memory},
    source::{Options, Source},
};

/// What to follow.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The cgroup2 directory whose flows are followed, those of the cgroups below it included [default: that of the pod
    /// that flowcar runs in; with FLOWCAR_SOURCE=inet_diag the whole network namespace]. In a pod: the pod's, or one below it
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Exit with status 69 if the receiver did not take the last report and the last spans in time
    #[arg(long)]
    strict: bool,
}

/// A flowcar that follows and exports.
struct Exporting {
    session: Session,
    watch: Option<Watch>,
    control: ControlServer,
    /// Whether programs may be attached again.
    attaches: bool,
}

/// Follows and exports until SIGTERM, SIGINT or SIGHUP. A second signal, a second later or more, ends the process at once.
///
/// # Errors
/// [`Failure`] if the flows cannot be followed. An endpoint that cannot be reached is no failure.
pub async fn export(args: ExportArgs, config: &Config) -> Result<u8, Failure> {
    // A signal that comes during the start stops flowcar in order, too.
    let mut signals = Signals::catch()?;
    let config = &config.clone().with_default_endpoint();
    let mut exporting = Exporting::start(args.cgroup.as_deref(), config)?;
    let stopped = exporting.until_stopped(&mut signals).await;
    exporting.conclude();
    tokio::select! {
        delivered = exporting.session.close(config.shutdown_timeout, Patience::Whole) => match stopped {
            Err(failure) => Err(failure),
            Ok(()) if args.strict && !delivered => Ok(exit::UNAVAILABLE),
            Ok(()) => Ok(0),
        },
        () = signals.came_again() => {
            tracing::warn!("a second signal: what was not sent yet is lost");
            Ok(exit::SOFTWARE)
        }
    }
}

// === impl Exporting ===

impl Exporting {
    /// Attaches, gives up what is not needed any more, and begins to export.
    fn start(named: Option<&Path>, config: &Config) -> Result<Self, Failure> {
        let (choice, cgroup) = followed(named, config)?;
        let cgroup = cgroup.as_deref();
        let source = Source::open(choice, cgroup, Options::from(config))?;
        // In a pod no capability is kept: the pod's cgroup outlives flowcar.
        let attaches = named.is_some() && !config.pod.is_known();
        give_up_rights(&source, config, attaches)?;
        // An application may write to the file's directory.
        let checkpoint = config.state_dir.as_deref();
        let checkpoint =
            checkpoint.and_then(|directory| open_checkpoint(directory, config.max_flows));
        let before = checkpoint.as_ref().and_then(CheckpointFile::read);
        let name = source.name();
        let named = named.and(cgroup);
        let host = Host::of_cgroup(named);
        let (config, limits) = within_memory(config);
        let config = &config;
        let numbers = source.capabilities().processes;
        let mut follower = Follower::new(source, &limits);
        if let Some((file, before)) = checkpoint.as_ref().zip(before) {
            follower.restore(&before, file.instance());
        }
        let tree = tree(config, cgroup);
        follower.find_origins(origins(config, tree.as_deref(), &host, numbers));
        let root = Root::of(named, host.container_id.is_some());
        if let Some(stats) = container_stats(config, tree.as_deref(), root) {
            follower.read_containers(stats);
        }
        announce_source(name, cgroup);
        announce(config);
        warn_of_no_export(config);
        let exporter = Exporter::start_as(config, name, &host);
        let new_watch = match config.pod.is_known() {
            true => Watch::beside_other_work,
            false => Watch::new,
        };
        let watch = cgroup.zip(follower.cgroup());
        let watch = watch.map(|(path, id)| new_watch(path, id));
        let mut session = Session::new(follower, exporter, config.report_interval / 2, config)
            .map_err(Failure::no_timer)?;
        if let Some(checkpoint) = checkpoint {
            session.write_checkpoints(checkpoint);
        }
        let control = ControlServer::open(named, config.pod.is_known());
        memory::release_startup_memory();
        Ok(Self {
            session,
            watch,
            control,
            attaches,
        })
    }

    /// Follows and exports until a signal comes.
    async fn until_stopped(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        let Self {
            session,
            watch,
            control,
            attaches,
        } = self;
        loop {
            if session.take_links_due() {
                check_links(session, *attaches)?;
                continue;
            }
            tokio::select! {
                () = signals.came() => return Ok(()),
                request = control.asked() => session.answer(request),
                change = changed(watch) => follow_again(session, watch, change, *attaches)?,
                done = session.step() => drop(done?),
            }
        }
    }

    /// Takes in all that waits, for the last time.
    fn conclude(&mut self) {
        let Self { session, .. } = self;
        session.last_poll(End::InTime);
        session.conclude(End::InTime);
        let books = session.follower().books();
        tracing::info!(
            opened = books.opened,
            closed = books.closed,
            live = books.live,
            lost = books.lost_total(),
            failed = books.failed,
            "stopping: sending the last report and spans"
        );
    }
}

/// Drops the capabilities that following does not need any more, and confines the process.
fn give_up_rights(source: &Source, config: &Config, attaches: bool) -> Result<(), Failure> {
    let kept = source.still_needs(attaches);
    capabilities::drop_all(&kept)?;
    capabilities::log_kept(&kept);
    hardening::confine(&Needs {
        writes: config.state_dir.as_deref(),
        child: false,
        attaches,
    });
    Ok(())
}

/// Logs what is followed, and by which source.
fn announce_source(source: &str, cgroup: Option<&Path>) {
    match cgroup {
        Some(cgroup) => {
            tracing::info!(cgroup = %cgroup.display(), source, "following its TCP flows");
        }
        None => tracing::info!(source, "following the network namespace's TCP flows"),
    }
}

/// Warns where nothing is exported.
fn warn_of_no_export(config: &Config) {
    if config.export == Export::default() {
        let by = match config.sdk_disabled {
            true => "OTEL_SDK_DISABLED switches it off",
            false => "OTEL_METRICS_EXPORTER and OTEL_TRACES_EXPORTER switch it off",
        };
        tracing::warn!("nothing is exported: {by}");
    }
}

/// Without a checkpoint flowcar follows as well, and the next flowcar starts its counts anew.
fn open_checkpoint(directory: &Path, flows: usize) -> Option<CheckpointFile> {
    CheckpointFile::open(directory, flows)
        .inspect_err(|error| {
            tracing::warn!(%error, "FLOWCAR_STATE_DIR is ignored: /proc does not show this boot and network namespace");
        })
        .ok()
}
