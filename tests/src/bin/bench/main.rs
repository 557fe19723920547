//! What flowcar costs: the same work with and without it in turn, and each of its hooks by the kernel's count.
//!
//! Throughput alone cannot answer that on a machine that other work shares: it swings by more between two equal
//! runs than flowcar changes. So there are three figures. Throughput and CPU time are compared in many short
//! rounds of runs, with the confidence that their number allows. Beside them stands the kernel's own count: the
//! calls of each hook, times what a call takes beyond an empty program, as a share of the bare exchange of its round.
//!
//! One end of each connection is in the followed cgroup, as one is in a pod: the client's, then the server's.

mod hooks;
mod measure;
mod report;
mod statistics;
mod worker;

use std::{io, process::ExitCode, time::Duration};

use clap::Parser;
use flowcar_tests::{
    interrupt::Interrupt,
    place::{require_cgroup2, require_root},
    receiver::Receiver,
};

use measure::Measure;
use worker::{End, Workload};

/// What flowcar costs on this machine.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Rounds: without flowcar, with it, and twice with it while the kernel counts
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Milliseconds of each run
    #[arg(long, default_value_t = 400)]
    run: u64,
    /// Eight rounds only
    #[arg(long)]
    quick: bool,
    /// The work itself, which this program starts inside the cgroup
    #[arg(long, hide = true)]
    worker: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.worker {
        true => worker::work(),
        false => bench(&arguments),
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

fn bench(arguments: &Arguments) -> io::Result<()> {
    if !require_root() || !require_cgroup2() {
        return Err(io::Error::other("run it as root: sudo make bench"));
    }
    let interrupt = Interrupt::catch()?;
    let rounds = if arguments.quick { 8 } else { arguments.rounds };
    let measure = Measure {
        rounds,
        run: Duration::from_millis(arguments.run),
        receiver: &Receiver::start()?,
        interrupt: &interrupt,
    };
    report::head(&measure);
    let measured = measure_all(&measure);
    // Whoever was killed by the signal failed for another reason.
    interrupt.check()?;
    measured
}

fn measure_all(measure: &Measure<'_>) -> io::Result<()> {
    let mut starts = Vec::new();
    for (workload, end) in scenes() {
        let rounds = measure.rounds(workload, end, &mut starts)?;
        report::workload(workload, end, &rounds);
    }
    report::process(&measure.idle()?, &starts);
    Ok(())
}

fn scenes() -> impl Iterator<Item = (Workload, End)> {
    Workload::ALL
        .into_iter()
        .flat_map(|workload| End::ALL.map(|end| (workload, end)))
}
