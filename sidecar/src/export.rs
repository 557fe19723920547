//! `flowcar export`: the sidecar. It attaches, exports until SIGTERM, then flushes within a deadline.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    capabilities,
    cgroup::{self, CgroupError, Change, Watch},
    checkpoint::CheckpointFile,
    config::{Config, Export, SourceChoice},
    container_stats::{ContainerStats, Root},
    control::ControlServer,
    exit::{self, Failure},
    follower::Follower,
    hardening::{self, Needs},
    host::Host,
    memory,
    origin::{Containers, Origins, ProcNumbers, Processes},
    otlp::exporter::{Exporter, Patience},
    session::{End, Session, within_memory},
    signals::is_ignored,
    source::{
        self, Source, SourceError,
        cause::Cause,
        ebpf::{Options, own_netns},
    },
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

/// Follows and exports until SIGTERM, SIGINT or SIGHUP. A second signal ends the process at once.
///
/// # Errors
/// [`Failure`] if the flows cannot be followed. An endpoint that cannot be reached is no failure.
pub async fn export(args: ExportArgs, config: &Config) -> Result<u8, Failure> {
    // A signal that comes during the start stops flowcar in order, too.
    let mut signals = Signals::catch()?;
    let config = &config.clone().with_default_endpoint();
    let (choice, cgroup) = followed(args.cgroup.as_deref(), config)?;
    let source = Source::open(choice, cgroup.as_deref(), Options::from(config))?;
    // In a pod no capability is kept: the pod's cgroup outlives flowcar.
    let attaches = args.cgroup.is_some() && !config.pod.is_known();
    let kept = source.still_needs(attaches);
    capabilities::drop_all(&kept)?;
    capabilities::log_kept(&kept);
    hardening::confine(&Needs {
        writes: config.state_dir.as_deref(),
        child: false,
        attaches,
    });
    // An application may write to the file's directory.
    let checkpoint = config.state_dir.as_deref();
    let checkpoint = checkpoint.and_then(|directory| open_checkpoint(directory, config.max_flows));
    let before = checkpoint.as_ref().and_then(CheckpointFile::read);
    let (name, numbers) = (source.name(), source.capabilities().processes);
    let named = args.cgroup.as_deref().and(cgroup.as_deref());
    let host = Host::of_cgroup(named);
    let (config, limits) = within_memory(config);
    let config = &config;
    let mut follower = Follower::new(source, &limits);
    if let Some((file, before)) = checkpoint.as_ref().zip(before) {
        follower.restore(&before, file.instance());
    }
    let tree = tree(config, cgroup.as_deref());
    follower.find_origins(origins(config, tree.as_deref(), &host, numbers));
    let root = Root::of(named, host.container_id.is_some());
    if let Some(stats) = container_stats(config, tree.as_deref(), root) {
        follower.read_containers(stats);
    }
    match &cgroup {
        Some(cgroup) => {
            tracing::info!(cgroup = %cgroup.display(), source = name, "following its TCP flows");
        }
        None => tracing::info!(source = name, "following the network namespace's TCP flows"),
    }
    announce(config);
    let exporter = Exporter::start_as(config, name, &host);
    let watch = cgroup.as_deref().zip(follower.cgroup());
    let new_watch = match config.pod.is_known() {
        true => Watch::beside_other_work,
        false => Watch::new,
    };
    let mut watch = watch.map(|(path, id)| new_watch(path, id));
    let mut session = Session::new(follower, exporter, config.report_interval / 2, config)
        .map_err(Failure::no_timer)?;
    if let Some(checkpoint) = checkpoint {
        session.write_checkpoints(checkpoint);
    }
    let mut control = ControlServer::open(named, config.pod.is_known());
    memory::release_startup_memory();
    let mut failed = None;
    while failed.is_none() {
        if session.take_links_due() {
            failed = check_links(&mut session, attaches).err();
            continue;
        }
        tokio::select! {
            () = signals.came() => break,
            request = control.asked() => session.answer(request),
            change = changed(&mut watch) => failed = follow_again(&mut session, &mut watch, change, attaches).err(),
            done = session.step() => failed = done.err().map(Failure::from),
        }
    }
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
    tokio::select! {
        delivered = session.close(config.shutdown_timeout, Patience::Whole) => match failed {
            Some(failure) => Err(failure),
            None if args.strict && !delivered => Ok(exit::UNAVAILABLE),
            None => Ok(0),
        },
        () = signals.came() => Ok(exit::SOFTWARE),
    }
}

/// The signals that stop flowcar. After SIGHUP from a closed terminal the last report is sent as well.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn catch() -> Result<Self, Failure> {
        let catch = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(
                    exit::SOFTWARE,
                    format_args!("cannot catch signals: {error}"),
                )
            })
        };
        // Under nohup flowcar continues.
        let hangup = !is_ignored(nix::sys::signal::Signal::SIGHUP);
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: hangup.then(|| catch(SignalKind::hangup())).transpose()?,
        })
    }

    async fn came(&mut self) {
        let hung_up = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hung_up => {}
        }
    }
}

/// The cgroup in which containers are, where one of the settings asks for it: the followed one, else the pod's. Without programs the
/// network namespace is followed, and the tree may be there all the same.
fn tree(config: &Config, cgroup: Option<&Path>) -> Option<PathBuf> {
    if !config.containers && !config.container_stats {
        return None;
    }
    let pod = || Some(cgroup::discover(&config.host_cgroup).ok()?.path);
    cgroup.map(Path::to_owned).or_else(pod)
}

/// What finds whose sockets the flows have. Where a container's own cgroup is followed, all are its, and the resource says so.
fn origins(
    config: &Config,
    tree: Option<&Path>,
    host: &Host,
    numbers: Option<ProcNumbers>,
) -> Origins {
    let containers = config.containers && host.container_id.is_none();
    let containers = containers.then(|| Containers::below(tree));
    let processes = config.processes.then(|| Processes::of_proc(numbers));
    Origins::new(containers, processes, own_netns())
}

/// The statistics of containers, where the setting asks for them, and metrics are sent.
fn container_stats(config: &Config, tree: Option<&Path>, root: Root) -> Option<ContainerStats> {
    if !config.container_stats || config.export.metrics.is_none() {
        return None;
    }
    if tree.is_none() {
        tracing::warn!(
            "FLOWCAR_CONTAINERS is ignored: the cgroup tree of the node is not there. The injector mounts it with the eBPF source; elsewhere mount it read-only and name it in FLOWCAR_HOST_CGROUP, or give --cgroup"
        );
    }
    let stats = tree.map(|tree| ContainerStats::below(tree, root))?;
    // None is there yet where flowcar starts first.
    tracing::info!(
        containers = stats.count(),
        "reading statistics of containers"
    );
    Some(stats)
}

/// Logs where reports go, how, and how often.
fn announce(config: &Config) {
    let Export {
        metrics,
        traces,
        logs,
    } = &config.export;
    if let Some(target) = metrics {
        tracing::info!(
            endpoint = target.url(),
            protocol = target.protocol.name(),
            every_s = config.report_interval.as_secs_f64(),
            "exporting metrics"
        );
    }
    if let Some(target) = traces {
        tracing::info!(
            endpoint = target.url(),
            protocol = target.protocol.name(),
            per_second_at_most = config.spans_per_second,
            "exporting spans"
        );
    }
    if let Some(target) = logs {
        tracing::info!(
            endpoint = target.url(),
            protocol = target.protocol.name(),
            per_second_at_most = config.spans_per_second,
            "exporting log records"
        );
    }
    if config.export == Export::default() {
        tracing::warn!(
            "nothing is exported: OTEL_SDK_DISABLED, or OTEL_METRICS_EXPORTER and OTEL_TRACES_EXPORTER, switch it off"
        );
    }
}

/// Waits for a change of the cgroup; for ever if there is none.
async fn changed(watch: &mut Option<Watch>) -> Change {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Follows the cgroup that was created in place of the one that was followed. Until there is one, the flows of the old one are
/// followed until they close.
fn follow_again(
    session: &mut Session,
    watch: &mut Option<Watch>,
    change: Change,
    attaches: bool,
) -> Result<(), Failure> {
    let Some(watch) = watch else { return Ok(()) };
    let path = watch.path().to_owned();
    let cgroup = path.display();
    if change == Change::Removed {
        tracing::warn!(
            %cgroup,
            "the followed cgroup was removed: its connections are followed until they close, and a new cgroup at the path will be followed"
        );
        return Ok(());
    }
    let there = || fs::metadata(&path).map(|found| found.ino()).ok();
    let before = there();
    match session.follow(&path) {
        Ok(id) => {
            watch.follows(id);
            tracing::info!(%cgroup, "the cgroup was recreated: following its TCP flows");
            Ok(())
        }
        // It was removed again meanwhile.
        Err(_) if there() != before => Ok(()),
        Err(error) => Err(Failure::new(
            exit::START_AGAIN,
            format_args!(
                "the followed cgroup {cgroup} was removed and recreated, and the new one cannot be followed: {}. flowcar exits with status 75, so that its supervisor restarts it",
                why_not_attached(attaches, &error)
            ),
        )),
    }
}

/// Fails if the programs cannot be attached again: nothing would be followed, silently.
fn check_links(session: &mut Session, attaches: bool) -> Result<(), Failure> {
    session.check_links().map_err(|error| {
        Failure::new(
            exit::START_AGAIN,
            format_args!(
                "flowcar's programs were detached from the cgroup by another process, and cannot be attached again: {}. flowcar exits with status 75, so that its supervisor restarts it",
                why_not_attached(attaches, &error)
            ),
        )
    })
}

/// Why programs are not attached a second time: in a pod the filter of system calls refuses what the kernel would allow.
fn why_not_attached(attaches: bool, error: &SourceError) -> String {
    match attaches {
        true => error.to_string(),
        false => "in a pod flowcar attaches no program a second time, because it could be attached to another pod's cgroup".to_owned(),
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

/// The source, and the cgroup that was named or the pod's. Without programs and without a named cgroup flowcar follows the network
/// namespace, which is the pod's too. `auto` does so if there is no cgroup2 to attach programs to.
fn followed(
    named: Option<&Path>,
    config: &Config,
) -> Result<(SourceChoice, Option<PathBuf>), CgroupError> {
    if let Some(path) = named {
        let in_pod = config.pod.is_known();
        let path = cgroup::named(path, in_pod, &config.host_cgroup)?;
        let choice = if in_pod {
            beside_tree(config)?
        } else {
            config.source
        };
        return Ok((choice, Some(path)));
    }
    if config.source == SourceChoice::InetDiag {
        return Ok((config.source, None));
    }
    let found = match cgroup::discover(&config.host_cgroup) {
        Err(error) if config.source == SourceChoice::Auto && cgroup::is_version_1_only() => {
            source::log_refusal(&Cause::CgroupV1, &error);
            return Ok((SourceChoice::InetDiag, None));
        }
        found => found?,
    };
    if beside_tree(config)? == SourceChoice::InetDiag {
        return Ok((SourceChoice::InetDiag, None));
    }
    // A static pod's cgroup has another uid than the API's: the inode is the proof, the uid a hint.
    if let Some(uid) = config.pod.uid.as_ref().filter(|uid| **uid != found.uid) {
        tracing::warn!(
            cgroup = %found.path.display(),
            "the pod's cgroup is named by another uid than the API's ({uid}): correct for a static pod only"
        );
    }
    Ok((config.source, Some(found.path)))
}

/// The source in a pod: no programs, and so no rights, if flowcar could write to the node's cgroup tree.
fn beside_tree(config: &Config) -> Result<SourceChoice, CgroupError> {
    if config.source == SourceChoice::InetDiag {
        return Ok(SourceChoice::InetDiag);
    }
    match cgroup::check_read_only(&config.host_cgroup) {
        Err(error @ CgroupError::WritableTree { .. }) if config.source == SourceChoice::Auto => {
            source::log_refusal(&Cause::WritableTree, &error);
            Ok(SourceChoice::InetDiag)
        }
        checked => checked.map(|()| config.source),
    }
}
