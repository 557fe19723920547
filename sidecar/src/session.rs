//! The main loop that `flowcar run` and `flowcar export` share: drain, sample, report.

mod alarm;
mod answers;
mod checkpoints;
mod drains;
mod recent_closes;
mod reports;
mod times;

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use self::{
    alarm::Alarm,
    checkpoints::Checkpoints,
    drains::{Drains, Pace},
    recent_closes::RecentCloses,
    reports::offer,
    times::Times,
};
use crate::{
    checkpoint::CheckpointFile,
    clock::{self, Anchor},
    config::Config,
    flow::{Flow, InterimSpans},
    follower::{Follower, Limits},
    losses::Losses,
    memory::{Budget, GiveBack},
    otlp::exporter::{Exporter, Patience},
    source::{SourceError, Woken},
    task::TaskEnded,
};

/// CPU time that a report waits for what is there already, before a poll and behind it: a whole ring of the default size takes some 25 ms.
/// With 1 % of a CPU it is a hundred times as long.
const BEFORE_POLL: Duration = Duration::from_millis(40);
const AFTER_POLL: Duration = Duration::from_millis(10);

/// How long [`End::InTime`] takes in what waits, by polls and behind them. Only a flowcar with little CPU time needs longer.
const POLLS_WITHIN: Duration = Duration::from_secs(5);
const CONCLUDED_WITHIN: Duration = Duration::from_secs(2);

/// The first report comes early: whoever has just started flowcar is waiting for it.
const FIRST_REPORT: Duration = Duration::from_secs(1);

/// Follows flows, and exports what is configured.
pub struct Session {
    follower: Follower,
    exporter: Option<Exporter>,
    checkpoints: Option<Checkpoints>,
    alarm: Alarm,
    drains: Drains,
    sample: Times,
    report: Times,
    interim: InterimSpans,
    losses: Losses,
    recent_closes: RecentCloses,
    give_back: GiveBack,
    polled: bool,
    /// The last turn left records in the ring.
    more: bool,
    due: Option<DueReport>,
    /// Whether the programs' links are to be checked: at the start, and after each report.
    checks_links: bool,
}

/// How long the end may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Until all is taken in.
    Whole,
    /// Whoever stops flowcar waits for a time only (30 s in Kubernetes), and the last report matters more.
    InTime,
}

/// A report that is due, and until when it waits, as [`clock::thread_cpu_time`].
#[derive(Clone, Copy, Debug)]
enum DueReport {
    BeforePoll(Duration),
    AfterPoll(Duration),
}

/// The settings, and the bounds of the flows that are followed, within the memory limit that this process finds. To be called before there
/// are connections.
pub fn within_memory(config: &Config) -> (Config, Limits) {
    let (mut config, limits) = (config.clone(), Limits::from(config));
    // Log records wait beside spans, as many and as large.
    let waiting = [&config.export.traces, &config.export.logs];
    let queues = waiting.iter().filter(|of| of.is_some()).count().max(1);
    let queue_bytes = config.span_queue_bytes.saturating_mul(queues);
    let budget = Budget::find(queue_bytes, config.measures_exchanges());
    if let Some(budget) = budget {
        let (flows, series) = (budget.flows(0), budget.series(0));
        let is_tight = flows < limits.flows || series < limits.naming.limit;
        if is_tight {
            tracing::info!(
                connections = flows.min(limits.flows),
                or_series = series.min(limits.naming.limit),
                "the memory limit bounds flows and series"
            );
        }
        if budget.span_queue_bytes() < queue_bytes {
            config.span_queue_bytes = budget.span_queue_bytes() / queues;
            tracing::info!(
                bytes = config.span_queue_bytes,
                "the memory limit bounds the spans that wait"
            );
        }
    }
    (config, Limits { budget, ..limits })
}

impl End {
    fn deadline(self, within: Duration) -> Option<Instant> {
        (self == Self::InTime).then(|| clock::now() + within)
    }
}

impl Session {
    /// A session that requests a sample of every live flow once in `sample`, and reports by `config`.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new(
        mut follower: Follower,
        exporter: Option<Exporter>,
        sample: Duration,
        config: &Config,
    ) -> io::Result<Self> {
        if let Some(exporter) = &exporter {
            follower.exclude(exporter.own_sockets());
        }
        let report = config.report_interval;
        let interim_ns = u64::try_from(config.span_interval.as_nanos()).unwrap_or(u64::MAX);
        let now = clock::now();
        Ok(Self {
            interim: InterimSpans::every(interim_ns),
            losses: Losses::default(),
            recent_closes: RecentCloses::default(),
            give_back: GiveBack::default(),
            polled: false,
            more: false,
            due: None,
            checks_links: true,
            follower,
            exporter,
            checkpoints: None,
            alarm: Alarm::new()?,
            drains: Drains::new(now),
            sample: Times::after(now + sample, sample),
            report: Times::after(now + FIRST_REPORT.min(report), report),
        })
    }

    /// Writes the checkpoint of each report that the receiver acknowledges to `file`. Before the first report.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn write_checkpoints(&mut self, file: CheckpointFile) {
        let progress = self.exporter.as_ref().and_then(Exporter::report_progress);
        self.checkpoints = progress.map(|progress| Checkpoints::start(file, progress));
    }

    /// Waits for the next thing to do and does it. Gives the flows that closed. Nothing is lost if the wait is dropped.
    ///
    /// # Errors
    /// [`TaskEnded`]: nothing of a signal is exported any more, or no checkpoint is written.
    pub async fn step(&mut self) -> Result<Vec<Flow>, TaskEnded> {
        // The sooner the first poll, the more of the older connections are still open.
        if !std::mem::replace(&mut self.polled, true) {
            return Ok(self.poll_sockets());
        }
        // With little CPU time something is always due, and the tasks that send reports and spans would have no turn on this thread.
        tokio::task::yield_now().await;
        let first = self
            .drains
            .next()
            .min(self.sample.latest())
            .min(self.report.next);
        tokio::select! {
            ended = ended(&mut self.exporter, &mut self.checkpoints) => return Err(ended),
            () = self.alarm.until(first) => {}
            woken = self.follower.woken() => match woken {
                // It may be removed soon. Records wait for their drain: a machine that makes many units would wake flowcar for each.
                Woken::ByDirectories => {
                    self.follower.take_notices();
                    return Ok(Vec::new());
                }
                Woken::ByRecords if self.drains.woken(clock::now()) => {
                    self.follower.awake();
                    // The name of a process that calls can be read only while it runs.
                    if !self.follower.reads_names() {
                        return Ok(Vec::new());
                    }
                }
                Woken::ByRecords | Woken::ByEvents => {}
            },
            () = std::future::ready(()), if self.more || self.due.is_some() => {}
        }
        let now = clock::now();
        if self.sample.is_due(now) {
            self.follower.ask_for_samples();
        }
        if self.report.is_due(now) {
            let until = clock::thread_cpu_time() + BEFORE_POLL;
            self.due.get_or_insert(DueReport::BeforePoll(until));
        }
        let mut closed = self.drain();
        self.pace(now);
        closed.extend(self.advance_report());
        Ok(closed)
    }

    /// Sleeps once nothing has come for some time, and until something comes.
    fn pace(&mut self, now: Instant) {
        let is_busy = self.follower.take_activity() || self.more;
        let is_quiet = self.follower.is_namespace_quiet();
        match self.drains.drained(is_busy, is_quiet, now) {
            Pace::Same => {}
            Pace::Awake => self.follower.awake(),
            Pace::Sleep if self.follower.sleep() => {}
            Pace::Sleep => self.drains.stay_awake(),
        }
    }

    /// The next step to a report that is due: some turns, the poll, some more turns. Gives the flows that closed by the poll.
    fn advance_report(&mut self) -> Vec<Flow> {
        let Some(due) = self.due.take() else {
            return Vec::new();
        };
        let (DueReport::BeforePoll(until) | DueReport::AfterPoll(until)) = due;
        let now = clock::thread_cpu_time();
        self.due = match due {
            waiting if self.more && now < until => Some(waiting),
            DueReport::BeforePoll(_) => {
                self.follower.anchor_again();
                self.follower.begin_poll();
                Some(DueReport::AfterPoll(clock::thread_cpu_time() + AFTER_POLL))
            }
            DueReport::AfterPoll(_) => {
                self.cut_interim_spans();
                self.report();
                self.checks_links = true;
                None
            }
        };
        self.closed()
    }

    /// Whether anything is exported.
    pub const fn exports(&self) -> bool {
        self.exporter.is_some()
    }

    /// Exports nothing more.
    pub fn stop_exporting(&mut self) {
        self.exporter = None;
    }

    /// Takes in what waits, but no more than one turn may take: reports, signals and probes have their turns, too.
    pub fn drain(&mut self) -> Vec<Flow> {
        self.more = self.follower.drain();
        self.closed()
    }

    /// The flows that closed since the last call. Their spans are exported.
    fn closed(&mut self) -> Vec<Flow> {
        let closed = self.follower.take_closed();
        if !closed.is_empty() {
            // A suspend since the last report counts to the time of what closed behind it.
            self.follower.anchor_again();
        }
        if self.recent_closes.is_asked() {
            let now = Anchor::now().monotonic();
            self.recent_closes.add(&closed, now);
        }
        if let Some(exporter) = &mut self.exporter {
            let anchor = self.follower.anchor();
            for flow in &closed {
                offer(exporter, &self.interim, flow, anchor);
            }
        }
        closed
    }

    /// Polls the sockets where that is due, and takes in all that waits.
    pub fn poll_sockets(&mut self) -> Vec<Flow> {
        self.follower.poll_sockets();
        self.more = false;
        self.closed()
    }

    /// Follows the cgroup that was made in place of the removed one. Gives its id.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn follow(&mut self, cgroup: &Path) -> Result<u64, SourceError> {
        self.polled = true;
        self.follower.follow(cgroup)
    }

    /// Whether [`Session::check_links`] is due, for a session that reports regularly.
    pub const fn take_links_due(&mut self) -> bool {
        std::mem::replace(&mut self.checks_links, false)
    }

    /// Checks whether the programs are still attached, and attaches them again where another process detached them.
    ///
    /// # Errors
    /// [`SourceError`]: nothing is followed from here on.
    pub fn check_links(&mut self) -> Result<(), SourceError> {
        self.follower.check_links()
    }

    /// Polls the sockets for the last time, due or not, and takes in what waits. Twice if there is time, because a poll proves the last
    /// byte of a connection only where it finds the same count as the one before.
    pub fn last_poll(&mut self, end: End) -> Vec<Flow> {
        let deadline = end.deadline(POLLS_WITHIN);
        self.follower.poll_again(deadline);
        self.follower.poll_again(deadline);
        self.closed()
    }

    /// Takes in all that waits, or as much as there is time for, for the last time.
    pub fn conclude(&mut self, end: End) -> Vec<Flow> {
        self.follower.conclude(end.deadline(CONCLUDED_WITHIN));
        self.closed()
    }

    /// The follower, for its figures.
    pub const fn follower(&self) -> &Follower {
        &self.follower
    }

    /// Sends the last report and waits for what is under way, for at most so long; and for the last checkpoint. Conclude first. Gives whether all went out.
    pub async fn close(mut self, within: Duration, patience: Patience) -> bool {
        self.open_spans();
        self.report();
        let Some(exporter) = self.exporter else {
            return true;
        };
        let deadline = tokio::time::Instant::now() + within;
        let delivered = exporter.flush_with(within, patience).await;
        drop(exporter);
        if let Some(checkpoints) = self.checkpoints {
            checkpoints.finish(deadline).await;
        }
        delivered
    }
}

/// Waits until a task of the exporter, or the one that writes checkpoints, ends prematurely; for ever where there is none.
async fn ended(
    exporter: &mut Option<Exporter>,
    checkpoints: &mut Option<Checkpoints>,
) -> TaskEnded {
    let exports = async {
        match exporter {
            Some(exporter) => exporter.ended().await,
            None => std::future::pending().await,
        }
    };
    let writes = async {
        match checkpoints {
            Some(checkpoints) => checkpoints.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // Where no report can be acknowledged any more, the writer ends, too: the exporter's end is the cause.
        biased;
        ended = exports => ended,
        ended = writes => ended,
    }
}

#[cfg(test)]
mod tests;
