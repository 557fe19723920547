use std::{
    collections::BTreeMap,
    ffi::OsString,
    io, thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    call::Caller,
    call_plan::CallPlan,
    options::milliseconds,
    report::{Failure, FailureKind, Percentiles, Stopwatch, nanoseconds},
    socket,
};

/// Load for a time: connections in a row on each of a number of threads, with the exchanges of the call
/// plan on each. One exchange is connect-per-request; many are request-response.
#[derive(Clone, Debug, Args)]
pub struct LoadPlan {
    /// What each connection does. `connections` is not used, `concurrency` is the number of threads.
    #[command(flatten)]
    pub call: CallPlan,
    /// How long
    #[arg(long, default_value = "1000", value_parser = milliseconds, value_name = "MS")]
    pub duration: Duration,
    /// Connections a second, all threads together: exactly as many as fit into the duration, even if they take
    /// longer. If absent, one after the other until the duration is over
    #[arg(long)]
    pub rate: Option<f64>,
}

/// What the load did, all connections together. Bytes are payload, times nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Connections that were attempted.
    pub connections: u64,
    /// Those that failed, by kind.
    pub failed: BTreeMap<FailureKind, u64>,
    /// Exchanges that were completed.
    pub exchanges: u64,
    /// Bytes that the sockets took.
    pub sent: u64,
    /// Bytes that were read.
    pub received: u64,
    /// From the first connect to the last close.
    pub elapsed_ns: u64,
    /// How long connect() took where it succeeded.
    pub connect: Percentiles,
    /// From the first byte of a request written to the last of its response read.
    pub exchange: Percentiles,
}

/// One thread's part.
struct Part {
    report: LoadReport,
    connect: Stopwatch,
    exchange: Stopwatch,
}

// === impl LoadPlan ===

impl LoadPlan {
    /// The arguments of `traffic load` that read as this plan.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let line = self
            .call
            .command_line()
            .milliseconds("--duration", self.duration);
        line.maybe("--rate", self.rate).into_arguments()
    }
}

/// Runs the load in the network namespace of the calling thread.
///
/// # Errors
/// An interval of the plan is empty, or threads cannot be started.
pub fn load(plan: &LoadPlan) -> io::Result<LoadReport> {
    plan.call.checked()?;
    socket::raise_open_files()?;
    let threads = plan.call.concurrency.max(1);
    let started = Instant::now();
    let parts: Vec<io::Result<Part>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|number| scope.spawn(move || one_thread(plan, number, threads, started)))
            .collect();
        let lost = |_| Err(io::Error::other("a load thread panicked"));
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(lost))
            .collect()
    });
    let mut total = Part::new()?;
    for part in parts {
        total.add(&part?)?;
    }
    Ok(LoadReport {
        elapsed_ns: nanoseconds(started.elapsed()),
        connect: total.connect.percentiles(),
        exchange: total.exchange.percentiles(),
        ..total.report
    })
}

fn one_thread(plan: &LoadPlan, number: u64, threads: u64, started: Instant) -> io::Result<Part> {
    let mut part = Part::new()?;
    let mut connection = number;
    loop {
        // With a rate, the start of each connection is fixed beforehand: a slow one lowers neither the rate
        // nor the number.
        let due = match plan.rate {
            Some(rate) => {
                Duration::try_from_secs_f64(connection as f64 / rate).unwrap_or(Duration::MAX)
            }
            None => started.elapsed(),
        };
        if due >= plan.duration {
            return Ok(part);
        }
        thread::sleep(due.saturating_sub(started.elapsed()));
        part.one_connection(plan, connection)?;
        connection += threads;
    }
}

// === impl Part ===

impl Part {
    fn new() -> io::Result<Self> {
        Ok(Self {
            report: LoadReport::default(),
            connect: Stopwatch::new()?,
            exchange: Stopwatch::new()?,
        })
    }

    fn one_connection(&mut self, plan: &LoadPlan, connection: u64) -> io::Result<()> {
        self.report.connections += 1;
        let mut caller = match Caller::connect(&plan.call, connection) {
            Ok(caller) => caller,
            Err(report) => {
                self.failed(report.failure);
                return Ok(());
            }
        };
        let exchanged = caller.all_exchanges();
        self.exchange.add(caller.stopwatch())?;
        let report = caller.finish(exchanged);
        self.connect
            .record(Duration::from_nanos(report.connect_ns.unwrap_or_default()));
        self.report.exchanges += report.exchanges;
        self.report.sent += report.sent;
        self.report.received += report.received;
        self.failed(report.failure);
        Ok(())
    }

    fn failed(&mut self, failure: Option<Failure>) {
        if let Some(Failure { kind, .. }) = failure {
            *self.report.failed.entry(kind).or_default() += 1;
        }
    }

    fn add(&mut self, other: &Self) -> io::Result<()> {
        self.report.connections += other.report.connections;
        self.report.exchanges += other.report.exchanges;
        self.report.sent += other.report.sent;
        self.report.received += other.report.received;
        for (kind, count) in &other.report.failed {
            *self.report.failed.entry(*kind).or_default() += count;
        }
        self.connect.add(&other.connect)?;
        self.exchange.add(&other.exchange)
    }
}
