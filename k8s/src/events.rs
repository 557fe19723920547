//! Events, created in the background: a bounded queue, and a counter of dropped ones.
//!
//! Whoever reaches the webhook's port can post a review. An Event is created only if the API server is known to
//! have asked or the object exists, and never more often than [`NAMESPACE`] and [`SOURCE`] allow.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use crate::{
    admit::PendingEvent,
    client::Source,
    metrics::{Dropped, Metrics},
    rate::Rate,
    verify::Verify,
};

/// How many Events may wait. The API server takes a few milliseconds for each.
const QUEUE: usize = 256;

/// How many objects are verified at once.
const VERIFYING: usize = 64;

/// Events of one namespace: at once, and then a second.
const NAMESPACE: (u32, f64) = (50, 2.0);

/// Events that one source asks for: at once, and then a second.
const SOURCE: (u32, f64) = (50, 5.0);

/// The longest note that the Events API takes, in bytes.
const NOTE_BYTES: usize = 1024;

/// Who asked for an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedBy {
    /// The API server, by its client certificate.
    ByApiServer,
    /// Anyone else.
    By(Source),
}

/// Creates Events without waiting.
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
    event: PendingEvent,
    is_known: bool,
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

    /// Queues an Event about an object that the controller has read itself, or counts that it was dropped.
    pub fn report(&self, event: PendingEvent, metrics: &Metrics) {
        self.queue(event, true, metrics);
    }

    /// Queues the Event of a review, if it can be trusted, or counts that it was dropped.
    pub fn offer(&self, event: PendingEvent, asked: AskedBy, metrics: &Metrics) {
        let now = Instant::now();
        let from_source = match asked {
            AskedBy::ByApiServer => true,
            AskedBy::By(source) => self.rates.sources.allows(source, now),
        };
        let namespace = event.regarding.namespace.clone();
        if !from_source || !self.rates.namespaces.allows(namespace, now) {
            return metrics.event_dropped(Dropped::Rate);
        }
        self.queue(event, asked == AskedBy::ByApiServer, metrics);
    }

    fn queue(&self, event: PendingEvent, is_known: bool, metrics: &Metrics) {
        if self.queue.try_send(Queued { event, is_known }).is_err() {
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
        let mut verifying: JoinSet<Option<PendingEvent>> = JoinSet::new();
        loop {
            tokio::select! {
                queued = waiting.recv(), if verifying.len() < VERIFYING => match queued {
                    Some(Queued { event, is_known: true }) => self.publish(event).await,
                    Some(Queued { event, .. }) => {
                        let verify = self.verify.clone();
                        verifying.spawn(async move { verify.event(event).await });
                    }
                    None => return,
                },
                Some(verified) = verifying.join_next() => match verified {
                    Ok(Some(event)) => self.publish(event).await,
                    Ok(None) | Err(_) => self.metrics.event_dropped(Dropped::Unverified),
                },
            }
        }
    }

    async fn publish(&self, event: PendingEvent) {
        let regarding = ObjectReference {
            api_version: Some(event.regarding.api_version),
            kind: Some(event.regarding.kind),
            namespace: Some(event.regarding.namespace),
            name: Some(event.regarding.name),
            uid: event.regarding.uid,
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: event.reason.to_owned(),
            note: Some(cut(event.message)),
            action: "Inject".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &regarding).await {
            self.metrics.event_dropped(Dropped::Refused);
            tracing::warn!(%error, "an Event could not be created");
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
