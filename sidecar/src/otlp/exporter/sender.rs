//! The path of every export, of metrics, spans and log records alike: requests part after part, one in flight, each retried, split or
//! given up, and counted. What the signals do differently with what they send is [`Outgoing`].

use std::future::Future;

use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, sleep_until},
};

use super::{
    ExportStats, FailureLog,
    outbox::{Next, Outbox, SizeLimit},
};
use crate::{
    config::Signal,
    otlp::{
        error::{Accepted, ExportError},
        retry::{Backoff, asked_for},
        split::Chunk,
        transport::{ExportRequest, Transport},
    },
};

/// When the flush ends, once there is one.
pub(super) type Hurry = Option<Instant>;

/// While the sender waits before a retry: until when the receiver asked it to wait, a time in the past where it asked for none.
pub(super) type Pause = Option<Instant>;

/// Waits until the receiver asks for a wait beyond this time. Gives how long that wait is still.
pub(super) async fn left_alone_beyond(
    deadline: Instant,
    mut pause: watch::Receiver<Pause>,
) -> Duration {
    let beyond = |pause: &Pause| pause.is_some_and(|until| until > deadline);
    match pause.wait_for(beyond).await.map(|pause| *pause) {
        Ok(Some(until)) => until.saturating_duration_since(Instant::now()),
        // The task has ended.
        _ => std::future::pending().await,
    }
}

/// Why what waits is lost at the end: the receiver asked for a wait that is longer than the time that is left, or the time is over.
pub(super) fn why_late(left_alone: Option<Duration>, pause: &watch::Receiver<Pause>) -> String {
    match left_alone {
        Some(wait) => format!(
            "the receiver asks flowcar to wait {} s more, and flowcar ends before",
            wait.as_secs()
        ),
        None if pause.borrow().is_some() => {
            "the receiver did not take them in time; the last try failed, and an earlier line has the cause".to_owned()
        }
        None => {
            "the receiver did not take them in time; raise FLOWCAR_SHUTDOWN_TIMEOUT if it can".to_owned()
        }
    }
}

/// What a signal sends: a report, or a batch of spans or log records.
pub(super) trait Outgoing: Send + 'static {
    /// Waits until there is something to send. Gives whether there is: nothing more comes once the main loop's end was dropped.
    fn ready(&mut self) -> impl Future<Output = bool> + Send;

    /// Encodes it, in parts of at most `most` bytes, or of one item.
    fn encode(&mut self, most: usize) -> Vec<Chunk>;

    /// The request of a part, the first one that is not settled.
    fn request(&self, part: &Chunk) -> ExportRequest;

    /// The receiver took this part, but for so many `rejected` items.
    fn taken(&mut self, part: &Chunk, rejected: u64);

    /// The receiver will never take this part, for this reason.
    fn refused(&mut self, part: Chunk, reason: &'static str);

    /// Whether the rest is sent again just as it is, after a failure that passes. Otherwise it is put back, and what is then to be sent is
    /// encoded anew.
    fn is_kept(&self, rest: &Outbox) -> bool;

    /// Every part is settled, or the rest is not kept.
    fn end(&mut self, sent: &Outbox);
}

/// The task's end of a lane.
pub(super) struct Sender<T, O> {
    signal: Signal,
    outgoing: O,
    transport: T,
    hurry: watch::Receiver<Hurry>,
    pause: watch::Sender<Pause>,
    size: SizeLimit,
    stats: ExportStats,
    failure_log: FailureLog,
    backoff: Backoff,
}

impl<T: Transport, O: Outgoing> Sender<T, O> {
    pub(super) fn new(
        signal: Signal,
        outgoing: O,
        transport: T,
        hurry: watch::Receiver<Hurry>,
        pause: watch::Sender<Pause>,
        stats: ExportStats,
    ) -> Self {
        Self {
            signal,
            outgoing,
            transport,
            hurry,
            pause,
            size: SizeLimit::default(),
            stats,
            failure_log: FailureLog::default(),
            backoff: Backoff::new(),
        }
    }

    /// Sends until nothing more comes.
    pub(super) async fn run(mut self) {
        while self.outgoing.ready().await {
            let most = self.size.most();
            let mut outbox = Outbox::new(self.signal, self.outgoing.encode(most), most);
            let failed = self.send_parts(&mut outbox).await;
            self.size.learn(&outbox);
            self.outgoing.end(&outbox);
            if let Some(error) = failed {
                self.wait(&error).await;
            }
        }
    }

    /// Sends part after part, each until it is taken or refused permanently. Gives the failure after which the rest is not kept.
    async fn send_parts(&mut self, outbox: &mut Outbox) -> Option<ExportError> {
        let mut perhaps_taken = false;
        while let Some(next) = outbox.next() {
            let part = match next {
                Next::Send(part) => part,
                Next::GiveUp(part) => {
                    self.too_large(part);
                    continue;
                }
            };
            match self.send(&part).await {
                Ok(accepted) => {
                    outbox.taken(&part);
                    self.outgoing.taken(&part, accepted.rejected);
                }
                Err(error) if perhaps_taken && error.is_known() => {
                    outbox.taken(&part);
                    self.outgoing.taken(&part, 0);
                }
                Err(error) if error.too_large() => {
                    if let Some(alone) = outbox.too_large(part) {
                        self.too_large(alone);
                    }
                }
                Err(error) if error.retryable() => {
                    perhaps_taken |= error.outcome_unknown();
                    outbox.put_back(part);
                    if !self.outgoing.is_kept(outbox) {
                        return Some(error);
                    }
                    self.wait(&error).await;
                    continue;
                }
                Err(_) => self.outgoing.refused(part, "refused"),
            }
            perhaps_taken = false;
            self.backoff = Backoff::new();
        }
        None
    }

    fn too_large(&mut self, part: Chunk) {
        self.stats.too_large(self.signal, part.items);
        self.outgoing.refused(part, "too_large");
    }

    /// Sends a part once. Counts the outcome, and logs it if it is new. Gives it with no more rejected than were sent, whatever the
    /// receiver counts.
    async fn send(&mut self, part: &Chunk) -> Result<Accepted, ExportError> {
        let started = Instant::now();
        let outcome = self.transport.send(self.outgoing.request(part)).await;
        let (items, took) = (part.items as u64, started.elapsed());
        let outcome = match outcome {
            Ok(accepted) => Ok(Accepted {
                rejected: accepted.rejected.min(items),
                ..accepted
            }),
            Err(error) if items == 1 => Err(error.alone(part.len())),
            Err(error) => Err(error),
        };
        let (name, rejected, taken) = match &outcome {
            Ok(accepted) => {
                let rejected = accepted.rejected;
                (accepted.outcome(), rejected, items - rejected)
            }
            Err(error) => (error.outcome(), 0, 0),
        };
        let signal = self.signal;
        self.stats
            .export(signal.name(), name, rejected, taken, took);
        match &outcome {
            Ok(accepted) => self.failure_log.accepted(signal, accepted),
            Err(error) => self.failure_log.failed(error),
        }
        outcome
    }

    /// Waits before a retry: the back-off, which a flush cuts short, or the time that the receiver asked for, if that is
    /// longer.
    async fn wait(&mut self, error: &ExportError) {
        let failed = Instant::now();
        let asked = failed + asked_for(error.retry_after);
        self.pause.send_replace(Some(asked));
        let hurried = |hurry: &Hurry| hurry.is_some_and(|deadline| deadline > Instant::now());
        let flush = self.hurry.borrow().filter(|deadline| *deadline > failed);
        if let Some(deadline) = flush {
            let left: Duration = deadline - failed;
            sleep(self.backoff.next_hurried(fastrand::f64(), left)).await;
        } else {
            let wait = self.backoff.next(fastrand::f64());
            sleep(Backoff::least(wait)).await;
            tokio::select! {
                () = sleep_until(failed + wait) => {}
                _ = self.hurry.wait_for(hurried) => {}
            }
        }
        sleep_until(asked).await;
        self.pause.send_replace(None);
    }
}
