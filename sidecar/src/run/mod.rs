//! `flowcar run`: a command's flows, followed from its first SYN to its last FIN.

mod cgroup;
mod child;
mod nothing;
mod page;
mod report;
mod rows;
mod status;
mod stream;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueHint;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use self::report::Format;
use self::{
    cgroup::CommandCgroup,
    child::Child,
    page::{Cost, Following, Recording},
    report::{Report, Wanted},
};
use crate::{
    capabilities, clock,
    config::{Config, SourceChoice},
    exit::{self, Failure},
    follower::{Follower, Limits},
    hardening::{self, Needs},
    memory,
    origin::{Origins, Processes},
    otlp::exporter::{Exporter, Patience, announce},
    session::{End, Session, within_memory},
    source::{Options, Source, SourceError, own_netns},
    view::Sums,
};

/// How often the progress line is drawn, and live flows are sampled.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// The time for flows to close after the command has ended: the other end's acknowledgement of the last FIN is a round trip away.
const SETTLE: Duration = Duration::from_secs(1);

/// The time for destroy events of sockets that closed with the command: the kernel sends them after the close, from a work
/// queue.
const DESTROY_EVENT_DELAY: Duration = Duration::from_millis(250);

/// The command to run and the form of the report.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The form of the report
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// A row for each connection when it closes, also where there are more than 20; the summary by peer follows them
    #[arg(long)]
    all: bool,
    /// A status line on the terminal while the command runs, also where the command writes to the terminal itself [default: only where it
    /// does not]
    #[arg(long)]
    status: bool,
    /// Write the report to FILE (`-`: standard output) instead of standard error
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also write a page for a browser to FILE: the slow and the failing peers, every connection on a time axis, and the books
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "COMMAND",
        value_hint = ValueHint::CommandWithArguments
    )]
    command: Vec<OsString>,
}

/// Runs the command, and gives the status that flowcar is to exit with: the command's.
///
/// # Errors
/// [`Failure`] if the command could not be run or its flows not be followed.
pub async fn run(args: RunArgs, config: &Config) -> Result<u8, Failure> {
    let mut report = report(&args)?;
    let cgroup = CommandCgroup::make()?;
    let (source, config) = open(config, cgroup.path())?;
    let kept = source.still_needs(false);
    let (config, limits) = within_memory(&config);
    let config = &config;
    let exporter = exporter(config, source.name(), &args.command[0]);
    let numbers = source.capabilities().processes;
    let mut following = Following {
        source: source.name(),
        exchanges: source.observes_packets(),
        handshakes: source.capabilities().handshakes,
        is_delivered: None,
        cost: Cost::default(),
    };
    let polls = !following.handshakes || report.wants_polls();
    let mut follower = Follower::new(source, &polled_often(limits, polls));
    // The command is in no container of its own.
    let processes = numbers.map(|of| Processes::of_proc(Some(of)));
    follower.find_origins(Origins::new(None, processes, own_netns()));
    let exports = exporter.is_some();
    let mut session =
        Session::new(follower, exporter, STATUS_EVERY, config).map_err(Failure::no_timer)?;
    let cpu = clock::process_cpu_time();
    report.command_starts();
    let mut child = Child::spawn(&args.command, &cgroup)?;
    report.command(child.pid());
    // The command has the capabilities that it would have without flowcar. Nothing was received yet, and no other thread was started.
    capabilities::drop_all(&kept)?;
    hardening::confine(&Needs {
        writes: Some(cgroup.parent()),
        child: true,
        attaches: !config.pod.is_known(),
    });
    let status = follow(&mut session, &mut child, &mut report, polls).await?;
    report.command_ended();
    following.cost = Cost {
        cpu: clock::process_cpu_time().saturating_sub(cpu),
        command_cpu: Child::cpu_time(),
        memory: memory::resident(),
    };
    settle(&mut session, &mut report, !following.handshakes).await;
    let closed = session.conclude(End::Whole);
    report.closed(&closed, session.follower().anchor());
    still_open(&session, &mut report);
    let mut sums = Sums {
        unscoped: session.follower().unscoped(),
        exit_status: Some(status.into()),
        ..Sums::from(&session.follower().books())
    };
    sums.hint = nothing::hint(&args.command, sums.is_nothing(), cgroup.running());
    // The command's environment may name a receiver that does not run.
    let still_exports = session.exports();
    let is_taken = session
        .close(config.shutdown_timeout, Patience::IfEverThere)
        .await;
    following.is_delivered = exports.then_some(still_exports && is_taken);
    report.sum_up(&sums, &following);
    tokio::select! {
        () = report.written() => {}
        () = child.patience() => {}
    }
    report.finish().map_err(|error| {
        Failure::new(
            exit::CANNOT_CREATE,
            format_args!("the report is incomplete: {error}"),
        )
    })?;
    Ok(status)
}

/// The report, and the page where one is wanted: both can be written, or the command is not started.
fn report(args: &RunArgs) -> Result<Report, Failure> {
    let cannot = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
        let path = path.display();
        let message = format!("cannot write the {what} to {path}: {error}");
        Failure::new(exit::CANNOT_CREATE, message)
    };
    let same = || {
        let message = "--report and --output name the same file: name two files";
        Err(Failure::new(exit::USAGE, message))
    };
    if args.report.is_some() && args.report == args.output {
        return same();
    }
    let output = args.output.as_deref();
    let wanted = Wanted {
        format: args.format,
        all: args.all,
        status: args.status,
    };
    let report = Report::to(output, wanted).map_err(|error| {
        let path = output.unwrap_or("standard error".as_ref());
        cannot("report", path, &error)
    })?;
    let Some(path) = &args.report else {
        return Ok(report);
    };
    let recording = Recording::new(program(&args.command[0]));
    let report = report
        .with_page(path, recording)
        .map_err(|error| cannot("page", path, &error))?;
    if report.is_one_file() {
        return same();
    }
    Ok(report)
}

/// The source, and the settings with what it measures. Exchanges cost nobody but this command: they are measured unless that is switched
/// off, or the kernel refuses the programs that nobody asked for.
fn open(config: &Config, cgroup: &Path) -> Result<(Source, Config), SourceError> {
    let open = |exchanges| {
        let options = Options {
            exchanges,
            ..Options::from(config)
        };
        Source::open(source(config), Some(cgroup), options)
    };
    let source = match config.exchanges {
        Some(exchanges) => open(exchanges)?,
        None => open(true).or_else(|error| {
            let source = open(false)?;
            tracing::warn!(%error, "exchanges are not measured");
            Ok::<_, SourceError>(source)
        })?,
    };
    let mut config = config.clone();
    config.exchanges = Some(source.observes_packets());
    Ok((source, config))
}

/// A user who runs a command to see its flows wants to see all of them, or the reason why not.
fn source(config: &Config) -> SourceChoice {
    match config.source {
        SourceChoice::Auto => SourceChoice::Ebpf,
        chosen => chosen,
    }
}

/// Without the programs only socket dumps assign a socket to the command's cgroup, so they come as often as their cost allows.
fn polled_often(limits: Limits, polls: bool) -> Limits {
    Limits {
        report: if polls {
            limits.report.min(STATUS_EVERY)
        } else {
            limits.report
        },
        ..limits
    }
}

/// Exports if an endpoint is set; the service is the command if nothing else names it.
fn exporter(config: &Config, source: &'static str, command: &OsString) -> Option<Exporter> {
    announce(config);
    Exporter::start(config, source, Some(&program(command)))
}

/// The command's name without its folder.
fn program(command: &OsString) -> String {
    let name = Path::new(command).file_name().unwrap_or(command);
    name.to_string_lossy().into_owned()
}

async fn follow(
    session: &mut Session,
    child: &mut Child,
    report: &mut Report,
    polls: bool,
) -> Result<u8, Failure> {
    let mut watched = true;
    let mut status = interval(STATUS_EVERY);
    status.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            ended = child.ended() => return ended,
            _ = status.tick() => {
                if polls {
                    let closed = session.poll_sockets();
                    report.closed(&closed, session.follower().anchor());
                }
                if watched && let Err(error) = session.check_links() {
                    watched = false;
                    tracing::error!(%error, "flowcar's programs were detached from the command's cgroup by another process, and cannot be attached again: flows from here on are missing");
                }
                if let Some(listeners) = session.follower().listeners() {
                    report.listeners(listeners);
                }
                report.watch(session.follower().flows());
                report.status(session.follower().flows());
            }
            done = session.step() => match done {
                Ok(closed) => report.closed(&closed, session.follower().anchor()),
                Err(ended) => {
                    // The command continues, and so does the report.
                    tracing::error!(error = %ended, "nothing more is exported");
                    session.stop_exporting();
                }
            }
        }
    }
}

/// Reports connections that the command leaves open: with the closed ones they are all that were opened.
fn still_open(session: &Session, report: &mut Report) {
    let follower = session.follower();
    let open = follower.flows().filter(|flow| flow.established.is_some());
    let mut open: Vec<_> = open.collect();
    open.sort_by_key(|flow| (flow.started, flow.cookie));
    for flow in open {
        report.open(flow, follower.anchor());
    }
}

/// Waits for the flows that are still closing, and without the programs for the destroy events of closed ones.
async fn settle(session: &mut Session, report: &mut Report, polls: bool) {
    let began = Instant::now();
    let (mut least, end) = (began, began + SETTLE);
    if polls {
        let closed = session.last_poll(End::Whole);
        report.closed(&closed, session.follower().anchor());
        least = began + DESTROY_EVENT_DELAY;
    }
    loop {
        let closed = session.drain();
        report.closed(&closed, session.follower().anchor());
        let (now, live) = (Instant::now(), session.follower().books().live);
        if now >= least && live == 0 {
            return;
        }
        if now >= end {
            // For the counts of those that stay open.
            let closed = session.last_poll(End::Whole);
            return report.closed(&closed, session.follower().anchor());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
