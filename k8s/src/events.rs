//! Events, told beside the work: a queue with a bound, and a counter for each that is not told.
//!
//! Whoever reaches the webhook's port can post a review. An Event is told only where the API server is known to
//! have asked, or where the object turns out to be there, and never more often than [`NAMESPACE`] and [`SOURCE`]
//! allow.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admit::Told;
use crate::metrics::Metrics;
use crate::rate::Rate;
use crate::serve::Source;
use crate::verify::Verify;

/// How many Events may wait. The API server takes a few milliseconds for each.
const QUEUE: usize = 256;

/// How many objects are looked for at once.
const LOOKING: usize = 64;

/// Events of one namespace: at once, and then a second.
const NAMESPACE: (u32, f64) = (50, 2.0);

/// Events that one source asks for: at once, and then a second.
const SOURCE: (u32, f64) = (50, 5.0);

/// The longest note that the Events API takes, in bytes.
const NOTE_BYTES: usize = 1024;

/// Who asked for an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The API server, by its client certificate.
    ByApiServer,
    /// Whoever is there.
    By(Source),
}

/// Why an Event is not told: a word for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The queue was full.
    Queue,
    /// There were too many from one source, or for one namespace.
    Rate,
    /// The object is not there.
    Unverified,
    /// The API server refused it or did not answer.
    Refused,
}

/// The way to tell an Event without waiting.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Queued>,
    rates: Arc<Rates>,
}

struct Rates {
    namespaces: Rate<String>,
    sources: Rate<Source>,
}

struct Queued {
    told: Told,
    is_known: bool,
}

// === impl Dropped ===

impl Dropped {
    /// The word.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Rate => "rate",
            Self::Unverified => "unverified",
            Self::Refused => "refused",
        }
    }
}

// === impl Events ===

impl Events {
    /// The queue, and the task that empties it into the API server.
    pub fn new(
        client: kube::Client,
        instance: String,
        metrics: Metrics,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let reporter = Reporter {
            controller: "flowcar.io/controller".to_owned(),
            instance: Some(instance),
        };
        let rates = Rates {
            namespaces: Rate::new(NAMESPACE.0, NAMESPACE.1),
            sources: Rate::new(SOURCE.0, SOURCE.1),
        };
        let events = Self {
            queue,
            rates: Arc::new(rates),
        };
        let publisher = Publisher {
            recorder: Recorder::new(client.clone(), reporter),
            verify: Verify::new(client),
            metrics,
        };
        (events, publisher.run(waiting))
    }

    /// Tells an Event about an object that the controller has read itself, or counts that it was dropped.
    pub fn tell(&self, told: Told, metrics: &Metrics) {
        self.queue(told, true, metrics);
    }

    /// Tells an Event that a review gave rise to, if it can be believed, or counts that it was dropped.
    pub fn offer(&self, told: Told, asked: Asked, metrics: &Metrics) {
        let now = Instant::now();
        let from_source = match asked {
            Asked::ByApiServer => true,
            Asked::By(source) => self.rates.sources.allows(source, now),
        };
        let namespace = told.regarding.namespace.clone();
        if !from_source || !self.rates.namespaces.allows(namespace, now) {
            return metrics.event_dropped(Dropped::Rate);
        }
        self.queue(told, asked == Asked::ByApiServer, metrics);
    }

    fn queue(&self, told: Told, is_known: bool, metrics: &Metrics) {
        if self.queue.try_send(Queued { told, is_known }).is_err() {
            metrics.event_dropped(Dropped::Queue);
        }
    }
}

struct Publisher {
    recorder: Recorder,
    verify: Verify,
    metrics: Metrics,
}

// === impl Publisher ===

impl Publisher {
    async fn run(self, mut waiting: mpsc::Receiver<Queued>) {
        let mut looking: JoinSet<Option<Told>> = JoinSet::new();
        loop {
            tokio::select! {
                queued = waiting.recv(), if looking.len() < LOOKING => match queued {
                    Some(Queued { told, is_known: true }) => self.publish(told).await,
                    Some(Queued { told, .. }) => {
                        let verify = self.verify.clone();
                        looking.spawn(async move { verify.told(told).await });
                    }
                    None => return,
                },
                Some(looked) = looking.join_next() => match looked {
                    Ok(Some(told)) => self.publish(told).await,
                    Ok(None) | Err(_) => self.metrics.event_dropped(Dropped::Unverified),
                },
            }
        }
    }

    async fn publish(&self, told: Told) {
        let regarding = ObjectReference {
            api_version: Some(told.regarding.api_version),
            kind: Some(told.regarding.kind),
            namespace: Some(told.regarding.namespace),
            name: Some(told.regarding.name),
            uid: told.regarding.uid,
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: told.reason.to_owned(),
            note: Some(cut(told.message)),
            action: "Inject".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &regarding).await {
            self.metrics.event_dropped(Dropped::Refused);
            tracing::warn!(%error, "an Event could not be told");
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > NOTE_BYTES {
        let end = (0..=NOTE_BYTES)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or_default();
        text.truncate(end);
    }
    text
}
