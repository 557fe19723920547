//! The main loop that `flowcar run` and `flowcar export` share: drain, sample, report.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::{
    admin::Health,
    clock::Anchor,
    config::Config,
    flow::{Flow, Parts},
    follower::Follower,
    losses::Losses,
    otlp::exporter::{Exporter, Patience, TaskEnded},
    source::SourceError,
};

/// How often the ring buffer is drained. A flow's end is seen this much later at most; waking up for each record
/// would cost the kernel side more than following the flow does.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// The first report comes early: whoever has just started flowcar is waiting for it.
const FIRST_REPORT: Duration = Duration::from_secs(1);

/// Follows flows, and exports what it is told to.
pub struct Session {
    follower: Follower,
    exporter: Option<Exporter>,
    drain: Interval,
    sample: Interval,
    report: Interval,
    parts: Parts,
    losses: Losses,
    looked: bool,
    /// The last turn left records in the ring.
    more: bool,
}

impl Session {
    /// A session that asks live flows for a sample every `sample`, and reports as `config` says.
    pub fn new(
        mut follower: Follower,
        exporter: Option<Exporter>,
        sample: Duration,
        config: &Config,
    ) -> Self {
        if let Some(exporter) = &exporter {
            follower.leave_out(exporter.own_sockets());
        }
        let report = config.report_interval;
        let part_ns = u64::try_from(config.span_interval.as_nanos()).unwrap_or(u64::MAX);
        Self {
            parts: Parts::every(part_ns),
            losses: Losses::default(),
            looked: false,
            more: false,
            follower,
            exporter,
            drain: every(DRAIN_EVERY),
            sample: every(sample),
            report: first_after(FIRST_REPORT.min(report), report),
        }
    }

    /// Waits for the next thing to do and does it. Flows that ended go to `finished` and become spans.
    /// Nothing is lost if the wait is dropped.
    ///
    /// # Errors
    /// [`TaskEnded`]: nothing of a signal is exported any more.
    pub async fn step(&mut self, finished: impl FnMut(&Flow, &Anchor)) -> Result<(), TaskEnded> {
        // The sooner, the more of what was open before is still open.
        if !std::mem::replace(&mut self.looked, true) {
            self.look(finished);
            return Ok(());
        }
        tokio::select! {
            ended = ended(&mut self.exporter) => return Err(ended),
            _ = self.drain.tick() => self.drain(finished),
            () = self.follower.woken() => self.drain(finished),
            () = std::future::ready(()), if self.more => self.drain(finished),
            _ = self.sample.tick() => self.follower.ask_for_samples(),
            _ = self.report.tick() => {
                self.follower.anchor_again();
                self.look(finished);
                self.cut_parts();
                self.report();
            }
        }
        Ok(())
    }

    /// Exports nothing more.
    pub fn stop_exporting(&mut self) {
        self.exporter = None;
    }

    /// Takes in what waits, but no more than one turn may take: reports, signals and probes have their turns, too.
    pub fn drain(&mut self, finished: impl FnMut(&Flow, &Anchor)) {
        self.more = self.follower.drain(told(&mut self.exporter, finished));
    }

    /// Looks at the sockets where that is due, and takes in all that waits.
    pub fn look(&mut self, finished: impl FnMut(&Flow, &Anchor)) {
        let mut finished = told(&mut self.exporter, finished);
        self.follower.drain_all(&mut finished);
        self.more = false;
        self.follower.look(finished);
    }

    /// Follows the cgroup that was made where the one that is followed was removed. Gives its id.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn follow(
        &mut self,
        cgroup: &Path,
        finished: impl FnMut(&Flow, &Anchor),
    ) -> Result<u64, SourceError> {
        self.looked = true;
        let finished = told(&mut self.exporter, finished);
        self.follower.follow(cgroup, finished)
    }

    /// Asks whether the programs are still attached, and attaches them again where somebody took them off.
    ///
    /// # Errors
    /// [`SourceError`]: nothing is followed from here on.
    pub fn look_after_links(
        &mut self,
        finished: impl FnMut(&Flow, &Anchor),
    ) -> Result<(), SourceError> {
        let finished = told(&mut self.exporter, finished);
        self.follower.look_after_links(finished)
    }

    /// Looks at the sockets for the last time, due or not, and takes in all that waits.
    pub fn last_look(&mut self, finished: impl FnMut(&Flow, &Anchor)) {
        self.follower.look_again(told(&mut self.exporter, finished));
    }

    /// Takes in all that waits, for the last time.
    pub fn conclude(&mut self, finished: impl FnMut(&Flow, &Anchor)) {
        self.follower.conclude(told(&mut self.exporter, finished));
    }

    /// How it is.
    pub fn health(&self) -> Health {
        let taken = |exporter: &Exporter| {
            let exports = exporter.own().exports;
            exports.keys().any(|(_, outcome)| *outcome == "success")
        };
        Health {
            delivering: self.exporter.as_ref().is_none_or(taken),
            detached: self.follower.detached(),
        }
    }

    /// The follower, for its figures.
    pub const fn follower(&self) -> &Follower {
        &self.follower
    }

    /// Sends the last report and waits for what is under way, for at most `deadline`. Conclude first. Gives whether all went out.
    pub async fn close(mut self, deadline: Duration, patience: Patience) -> bool {
        self.open_spans();
        self.report();
        match self.exporter {
            Some(exporter) => exporter.flush_with(deadline, patience).await,
            None => true,
        }
    }

    /// Sends the spans of the connections that are open, as far as they go: their interim spans name them.
    fn open_spans(&mut self) {
        let Some(exporter) = self.exporter.as_mut().filter(|_| self.parts.any()) else {
            return;
        };
        let anchor = *self.follower.anchor();
        let flows = self.follower.flows();
        for flow in flows.filter(|flow| flow.established.is_some()) {
            let seen = anchor.monotonic().max(flow.seen);
            let flow = Flow {
                seen,
                ..flow.clone()
            };
            exporter.flow(&flow, &anchor);
        }
    }

    fn cut_parts(&mut self) {
        let Some(exporter) = &mut self.exporter else {
            return;
        };
        let anchor = *self.follower.anchor();
        let (flows, now) = (self.follower.flows(), anchor.monotonic());
        self.parts
            .cut(flows, now, |flow, part| exporter.part(flow, part, &anchor));
    }

    fn report(&mut self) {
        if let Some(exporter) = &self.exporter {
            let snapshot = self.follower.snapshot(exporter.own());
            self.losses.report(&snapshot.books);
            exporter.metrics(snapshot);
        }
    }
}

/// Waits until a task of the exporter ends, which is before its time; for ever where nothing is exported.
async fn ended(exporter: &mut Option<Exporter>) -> TaskEnded {
    match exporter {
        Some(exporter) => exporter.ended().await,
        None => std::future::pending().await,
    }
}

/// Hands flows that ended to the exporter, too.
fn told(
    exporter: &mut Option<Exporter>,
    mut finished: impl FnMut(&Flow, &Anchor),
) -> impl FnMut(&Flow, &Anchor) {
    move |flow, anchor| {
        if let Some(exporter) = exporter {
            exporter.flow(flow, anchor);
        }
        finished(flow, anchor);
    }
}

fn every(period: Duration) -> Interval {
    first_after(period, period)
}

fn first_after(delay: Duration, period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + delay, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}
