//! What the lanes send by: a client of the target's protocol, made anew when there is reason to.

use std::future::Future;

use bytes::Bytes;

use crate::{
    config::{Protocol, Signal, Target},
    otlp::{
        connect::{Connector, Contact},
        error::{Accepted, ExportError},
        grpc::Grpc,
        http::Http,
        own::OwnSockets,
        resource::Resource,
        span_client::{Batch, SpanClient},
    },
};

/// Sends requests, one at a time.
pub(super) trait Transport<R>: Send + 'static {
    /// Sends a request once and waits for what comes of it.
    fn send(&mut self, request: R) -> impl Future<Output = Result<Accepted, ExportError>> + Send;
}

/// Sends to a target.
pub(super) struct Remote<C> {
    connector: Connector,
    client: Option<Client<C>>,
    make: Box<dyn Fn(Connector) -> Result<C, ExportError> + Send + Sync>,
}

/// A client, and which of the certificates it was made with.
struct Client<C> {
    generation: u64,
    client: C,
}

/// Sends metrics.
pub(super) enum MetricsClient {
    Grpc(Box<Grpc>),
    Http(Box<Http>),
}

/// Sends metrics to `target`.
pub(super) fn metrics(target: Target, own: OwnSockets) -> Remote<MetricsClient> {
    Remote::new(target, own, |connector| {
        Ok(match connector.target().protocol {
            Protocol::Grpc => MetricsClient::Grpc(Box::new(Grpc::new(Signal::Metrics, connector))),
            Protocol::HttpProtobuf => {
                MetricsClient::Http(Box::new(Http::new(Signal::Metrics, connector)))
            }
        })
    })
}

/// Sends spans to `target`.
pub(super) fn spans(target: Target, own: OwnSockets, resource: Resource) -> Remote<SpanClient> {
    Remote::new(target, own, move |connector| {
        SpanClient::new(connector, &resource)
    })
}

// === impl Remote ===

impl<C> Remote<C> {
    fn new(
        target: Target,
        own: OwnSockets,
        make: impl Fn(Connector) -> Result<C, ExportError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            connector: Connector::new(target, own),
            client: None,
            make: Box::new(make),
        }
    }

    /// Whether the target was ever there.
    pub(super) fn contact(&self) -> Contact {
        self.connector.contact()
    }

    /// The client: a new one where the certificates have changed since it was made.
    fn client(&mut self) -> Result<&mut C, ExportError> {
        let generation = self.connector.generation();
        let current = self
            .client
            .take()
            .filter(|client| client.generation == generation);
        let client = match current {
            Some(current) => current,
            None => Client {
                client: (self.make)(self.connector.clone())?,
                generation,
            },
        };
        Ok(&mut self.client.insert(client).client)
    }

    /// A connection over which no answer came is not used again: the host behind it may be gone without a word, and
    /// the name may have another address by now.
    fn judge(&mut self, outcome: &Result<Accepted, ExportError>) {
        if outcome.as_ref().is_err_and(ExportError::outcome_unknown) {
            self.client = None;
        }
    }
}

impl Transport<Bytes> for Remote<MetricsClient> {
    async fn send(&mut self, request: Bytes) -> Result<Accepted, ExportError> {
        let outcome = match self.client()? {
            MetricsClient::Grpc(grpc) => grpc.export(request).await,
            MetricsClient::Http(http) => http.export(request).await,
        };
        self.judge(&outcome);
        outcome
    }
}

impl Transport<Batch> for Remote<SpanClient> {
    async fn send(&mut self, batch: Batch) -> Result<Accepted, ExportError> {
        let outcome = self.client()?.export(batch).await;
        self.judge(&outcome);
        outcome
    }
}
