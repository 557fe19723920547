//! What flowcar costs: the same work with and without it in turn, each of its programs by the kernel's count, and other tools beside it.
//!
//! Throughput alone cannot answer that on a machine that other work shares: it swings by more between two equal
//! runs than flowcar changes. So there are three figures. Throughput and CPU time are compared in many short
//! rounds of runs, with the confidence that their number allows. Beside them stands the kernel's own count: the
//! calls of each hook, times what a call takes beyond an empty program. Nanoseconds hold on any machine of this kind; their share of
//! the bare exchange holds on this one only, and stands beside the time of that exchange.
//!
//! One end of each connection is in the followed cgroup, as one is in a pod: the client's, then the server's.

mod books;
mod bpf;
mod bulk;
mod exports;
mod figures;
mod growth;
mod hooks;
mod measure;
mod page;
mod peers;
mod plot;
mod report;
mod rounds;
mod statistics;
mod storm;
mod table;
mod worker;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};
use figures::{FORM, Figures, Machine, Method, Process};
use flowcar_lab::{
    interrupt::Interrupt,
    place::{require_cgroup2, require_root},
    receiver::Receiver,
};
use measure::Measure;
use peers::Peer;
use statistics::spread;
use worker::{End, REQUEST, RESPONSE, Workload};

/// What flowcar costs on this machine.
#[derive(Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
    /// The work itself, which this program starts inside the cgroup
    #[arg(long, hide = true)]
    worker: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Draws the JSON of a run as SVG
    Plot {
        /// What --json wrote
        file: PathBuf,
        /// Where the plots go
        directory: PathBuf,
    },
    /// Prints the final table of the JSON of a run
    Table {
        /// What --json wrote
        file: PathBuf,
    },
    /// Prints the tables of docs/benchmarks.md of the JSON of a run
    Page {
        /// What --json wrote
        file: PathBuf,
        /// Prints the rows of README.md instead
        #[arg(long)]
        readme: bool,
    },
}

#[derive(clap::Args)]
struct RunArguments {
    /// Rounds: without flowcar, with it, and twice with it while the kernel counts [default: 30, with --quick 8]
    #[arg(long)]
    rounds: Option<usize>,
    /// Milliseconds of each run
    #[arg(long, default_value_t = 400)]
    run: u64,
    /// Few rounds, and small numbers everywhere
    #[arg(long)]
    quick: bool,
    /// What to measure besides exchanges, which always are
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::value_variants().to_vec())]
    parts: Vec<Part>,
    /// Only exchanges
    #[arg(long, conflicts_with = "parts")]
    exchanges_only: bool,
    /// The binary of NetObserv's agent, if it is not on the PATH
    #[arg(long)]
    netobserv: Option<PathBuf>,
    /// Writes all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A word about this run for whoever reads its figures, such as what else ran; it is in the JSON as it is
    #[arg(long)]
    note: Option<String>,
}

/// What can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Megabytes one way
    Bulk,
    /// Other tools
    Peers,
    /// Connections that stay open, up to 65,536 flows
    Growth,
    /// From close() to the receiver
    CloseDelay,
    /// Bytes of exports
    Export,
    /// As many connections as the machine makes
    Storm,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (&arguments.command, arguments.worker) {
        (_, true) => worker::work(),
        (Some(Command::Plot { file, directory }), _) => plot::plot(file, directory),
        (Some(Command::Table { file }), _) => print(file, table::markdown),
        (Some(Command::Page { file, readme }), _) => print(
            file,
            if *readme {
                page::readme
            } else {
                page::markdown
            },
        ),
        (None, _) => bench(&arguments.run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            eprintln!("bench: interrupted; what it had started was removed");
            // 128 + SIGINT, as a shell's exit status.
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(file: &Path, markdown: fn(&Figures) -> String) -> io::Result<()> {
    let figures = serde_json::from_str(&fs::read_to_string(file)?)?;
    print!("{}", markdown(&figures));
    Ok(())
}

fn bench(arguments: &RunArguments) -> io::Result<()> {
    if !require_root() || !require_cgroup2() {
        return Err(io::Error::other("run it as root: sudo make bench"));
    }
    // A path that cannot be written to is an error before the run.
    let mut json = arguments.json.as_ref().map(fs::File::create).transpose()?;
    let interrupt = Interrupt::catch()?;
    let quick = arguments.quick;
    let measure = Measure {
        rounds: arguments.rounds.unwrap_or(if quick { 8 } else { 30 }),
        run: Duration::from_millis(arguments.run),
        settle: Duration::from_millis(if quick { 100 } else { 3_000 }),
        idle: Duration::from_millis(if quick { 500 } else { 4_000 }),
        receiver: &Receiver::start()?,
        interrupt: &interrupt,
    };
    let measured = measure_all(&measure, arguments);
    // Whoever was killed by the signal failed for another reason.
    interrupt.check()?;
    let figures = measured?;
    println!();
    print!("{}", table::markdown(&figures));
    if let Some(file) = &mut json {
        writeln!(file, "{}", serde_json::to_string_pretty(&figures)?)?;
    }
    Ok(())
}

fn measure_all(measure: &Measure<'_>, arguments: &RunArguments) -> io::Result<Figures> {
    let machine = machine(arguments.note.clone())?;
    let method = Method {
        rounds: measure.rounds,
        run_ms: arguments.run,
        request_bytes: REQUEST,
        response_bytes: RESPONSE,
    };
    report::head(&machine, &method);
    let wanted = |part| !arguments.exchanges_only && arguments.parts.contains(&part);
    let quick = arguments.quick;
    let (mut workloads, mut programs, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    let mut both_ends = |measure: &Measure<'_>, workload| -> io::Result<()> {
        for end in End::ALL {
            let measured = measure.rounds(workload, end, &mut starts)?;
            let figures = rounds::figures(workload, end, &measured.rounds);
            report::workload(&figures);
            workloads.push(figures);
            programs = measured.programs;
        }
        Ok(())
    };
    for workload in Workload::EXCHANGES {
        both_ends(measure, workload)?;
    }
    if wanted(Part::Bulk) {
        // A third of the rounds: what a megabyte costs is nearly the same each time.
        let measure = Measure {
            rounds: measure.rounds.div_ceil(3),
            ..*measure
        };
        for workload in Workload::BULK {
            both_ends(&measure, workload)?;
        }
    }
    report::programs(&programs);
    let mut peers = Vec::new();
    if wanted(Part::Peers) {
        for peer in Peer::all(arguments.netobserv.clone()) {
            let peer = peer.figures(measure)?;
            report::peer(&peer);
            peers.push(peer);
        }
    }
    let process = process(measure, &starts)?;
    report::process(&process);
    let growth = optional(wanted(Part::Growth), report::growth, || {
        let plan = if quick {
            growth::Plan::QUICK
        } else {
            growth::Plan::FULL
        };
        plan.measure(measure)
    })?;
    let close_delay = optional(wanted(Part::CloseDelay), report::close_delay, || {
        exports::close_delay(measure, if quick { 2 } else { 30 })
    })?;
    let export = optional(wanted(Part::Export), report::export, || {
        exports::bytes(
            measure,
            Duration::from_millis(if quick { 100 } else { 1_000 }),
        )
    })?;
    let storm = optional(wanted(Part::Storm), report::storm, || {
        storm::measure(measure, Duration::from_secs(if quick { 1 } else { 60 }))
    })?;
    Ok(Figures {
        form: FORM,
        machine,
        method,
        workloads,
        programs,
        peers,
        process,
        growth,
        close_delay,
        export,
        storm,
    })
}

/// Measures and reports what is wanted.
fn optional<T>(
    wanted: bool,
    report: fn(&T),
    measure: impl FnOnce() -> io::Result<T>,
) -> io::Result<Option<T>> {
    if !wanted {
        return Ok(None);
    }
    let figures = measure()?;
    report(&figures);
    Ok(Some(figures))
}

fn machine(note: Option<String>) -> io::Result<Machine> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let name = |line: &str| {
        Some(
            line.strip_prefix("model name")?
                .split_once(": ")?
                .1
                .to_owned(),
        )
    };
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(Machine {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        // Others than x86 have none.
        processor: processors.lines().find_map(name).unwrap_or_default(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        build: if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        }
        .to_owned(),
        load_before: load
            .split(' ')
            .next()
            .and_then(|one| one.parse().ok())
            .unwrap_or_default(),
        note,
    })
}

fn process(measure: &Measure<'_>, starts: &[Duration]) -> io::Result<Process> {
    let idle = measure.idle()?;
    Ok(Process {
        binary_bytes: idle.binary,
        rss_bytes: idle.rss,
        anonymous_bytes: idle.anonymous,
        cpu_percent: 100.0 * idle.cpu_share,
        attach_ms: spread(starts.iter().map(|start| start.as_secs_f64() * 1e3)),
    })
}
