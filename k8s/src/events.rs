//! Events, told beside the work: a queue with a bound, and a counter for what the bound cost.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::admit::Told;
use crate::metrics::Metrics;

/// How many Events may wait. The API server takes a few milliseconds for each.
const QUEUE: usize = 256;

/// The longest note that the Events API takes, in bytes.
const NOTE_BYTES: usize = 1024;

/// The way to tell an Event without waiting.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Told>,
}

// === impl Events ===

impl Events {
    /// The queue, and the task that empties it into the API server.
    pub fn new(
        client: kube::Client,
        instance: String,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let reporter = Reporter {
            controller: "flowcar.io/controller".to_owned(),
            instance: Some(instance),
        };
        (
            Self { queue },
            publish(waiting, Recorder::new(client, reporter)),
        )
    }

    /// Tells an Event, or counts that it was dropped.
    pub fn tell(&self, told: Told, metrics: &Metrics) {
        if self.queue.try_send(told).is_err() {
            metrics.event_dropped();
        }
    }
}

async fn publish(mut waiting: mpsc::Receiver<Told>, recorder: Recorder) {
    while let Some(told) = waiting.recv().await {
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
        if let Err(error) = recorder.publish(&event, &regarding).await {
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
