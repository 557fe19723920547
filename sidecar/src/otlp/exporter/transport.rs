//! The transport of the lanes: a client of the target's protocol, recreated when necessary.

use std::future::Future;

use bytes::Bytes;

use crate::{
    config::{Protocol, Signal, Target},
    exporter_sockets::ExporterSockets,
    otlp::{
        connect::{Connector, Contact},
        error::{Accepted, ExportError},
        grpc::Grpc,
        http::Http,
        resource::Resource,
        span_client::{Batch, SpanClient},
    },
};

/// Sends requests, one at a time.
pub(super) trait Transport<R>: Send + 'static {
    /// Sends a request once and waits for the result.
    fn send(&mut self, request: R) -> impl Future<Output = Result<Accepted, ExportError>> + Send;
}

/// Sends to a target.
pub(super) struct Remote<C> {
    connector: Connector,
    client: Option<Client<C>>,
    make: Box<dyn Fn(Connector) -> Result<C, ExportError> + Send + Sync>,
}

/// A client, and the number of the certificates that it was made with.
struct Client<C> {
    generation: u64,
    client: C,
}

/// Sends encoded requests: of metrics and of log records.
pub(super) enum EncodedClient {
    Grpc(Box<Grpc>),
    Http(Box<Http>),
}

/// Sends encoded requests of a signal to `target`.
pub(super) fn encoded(
    signal: Signal,
    target: Target,
    self_metrics: ExporterSockets,
) -> Remote<EncodedClient> {
    Remote::new(target, self_metrics, move |connector| {
        Ok(match connector.target().protocol {
            Protocol::Grpc => EncodedClient::Grpc(Box::new(Grpc::new(signal, connector))),
            Protocol::HttpProtobuf => EncodedClient::Http(Box::new(Http::new(signal, connector))),
        })
    })
}

/// Sends spans to `target`.
pub(super) fn spans(
    target: Target,
    self_metrics: ExporterSockets,
    resource: Resource,
) -> Remote<SpanClient> {
    Remote::new(target, self_metrics, move |connector| {
        SpanClient::new(connector, &resource)
    })
}

// === impl Remote ===

impl<C> Remote<C> {
    fn new(
        target: Target,
        self_metrics: ExporterSockets,
        make: impl Fn(Connector) -> Result<C, ExportError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            connector: Connector::new(target, self_metrics),
            client: None,
            make: Box::new(make),
        }
    }

    /// Whether the target was ever reached.
    pub(super) fn contact(&self) -> Contact {
        self.connector.contact()
    }

    /// The client: a new one if the certificates have changed.
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

    /// A connection over which no answer came is not used again: the host may have vanished silently, and the name may
    /// have another address by now.
    fn judge(&mut self, outcome: &Result<Accepted, ExportError>) {
        let failed = outcome.as_ref().err().map(|error| &error.cause);
        self.connector.contact().judge(failed);
        if outcome.as_ref().is_err_and(ExportError::outcome_unknown) {
            self.client = None;
        }
    }
}

impl Transport<Bytes> for Remote<EncodedClient> {
    async fn send(&mut self, request: Bytes) -> Result<Accepted, ExportError> {
        let outcome = match self.client()? {
            EncodedClient::Grpc(grpc) => grpc.export(request).await,
            EncodedClient::Http(http) => http.export(request).await,
        };
        self.judge(&outcome);
        outcome
    }
}

impl Transport<Batch> for Remote<EncodedClient> {
    async fn send(&mut self, batch: Batch) -> Result<Accepted, ExportError> {
        self.send(batch.encoded).await
    }
}

impl Transport<Batch> for Remote<SpanClient> {
    async fn send(&mut self, batch: Batch) -> Result<Accepted, ExportError> {
        let outcome = self.client()?.export(batch).await;
        self.judge(&outcome);
        outcome
    }
}
