//! The transport to a target: a client of its protocol, recreated when necessary.

use async_trait::async_trait;

use super::{
    connect::{Connector, Contact},
    error::{Accepted, ExportError},
    grpc::Grpc,
    http::Http,
    http_spans::HttpSpans,
    transport::{ExportRequest, Transport},
};
use crate::{
    config::{Protocol, Signal, Target},
    exporter_sockets::ExporterSockets,
};

/// Sends requests of a signal to a target.
pub(super) struct Remote {
    signal: Signal,
    connector: Connector,
    client: Option<Client>,
}

/// A client, and the number of the certificates that it was made with.
struct Client {
    generation: u64,
    transport: Box<dyn Transport>,
}

/// A client of the protocol of the connector's target, which sends requests as they are encoded.
pub(super) fn client(signal: Signal, connector: Connector) -> Box<dyn Transport> {
    match connector.target().protocol {
        Protocol::Grpc => Box::new(Grpc::new(signal, connector)),
        Protocol::HttpProtobuf => Box::new(Http::new(signal, connector)),
    }
}

/// The same for exports: spans over HTTP go through opentelemetry-otlp's exporter.
fn exporting(signal: Signal, connector: Connector) -> Result<Box<dyn Transport>, ExportError> {
    Ok(match (signal, connector.target().protocol) {
        (Signal::Traces, Protocol::HttpProtobuf) => Box::new(HttpSpans::new(connector)?),
        _ => client(signal, connector),
    })
}

// === impl Remote ===

impl Remote {
    /// Sends to `target`; nothing is connected before there is something to send.
    pub(super) fn new(signal: Signal, target: Target, own: ExporterSockets) -> Self {
        Self {
            signal,
            connector: Connector::new(signal, target, own),
            client: None,
        }
    }

    /// Whether the target was ever reached.
    pub(super) fn contact(&self) -> Contact {
        self.connector.contact()
    }

    /// The client: a new one if the certificates have changed.
    fn client(&mut self) -> Result<&mut dyn Transport, ExportError> {
        let generation = self.connector.generation();
        let current = self
            .client
            .take()
            .filter(|client| client.generation == generation);
        let client = match current {
            Some(current) => current,
            None => Client {
                transport: exporting(self.signal, self.connector.clone())?,
                generation,
            },
        };
        Ok(self.client.insert(client).transport.as_mut())
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

#[async_trait]
impl Transport for Remote {
    async fn send(&mut self, request: ExportRequest) -> Result<Accepted, ExportError> {
        let outcome = self.client()?.send(request).await;
        self.judge(&outcome);
        outcome
    }
}
