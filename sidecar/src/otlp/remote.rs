//! The transport to a target: a client of its protocol, recreated when necessary.

use std::{future::Future, pin::pin};

use async_trait::async_trait;
use tokio::time::{Duration, Instant, timeout_at};

use super::{
    connect::{Connector, Contact},
    error::{Accepted, Cause, ExportError},
    grpc::Grpc,
    http::Http,
    http_spans::HttpSpans,
    no_answer::late,
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
    /// When it was last logged that an answer takes long.
    logged: Option<Instant>,
}

/// Without a timeout an answer that takes longer is logged: nothing else would tell of a receiver that never answers.
const LONG: Duration = Duration::from_secs(30);

/// The shortest time between two such lines.
const QUIET: Duration = Duration::from_secs(60);

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

/// The outcome of the work. Where it has no limit, logs, at most once in a while, that it takes long.
async fn watched<T>(
    work: impl Future<Output = T>,
    logged: &mut Option<Instant>,
    signal: Signal,
    connector: &Connector,
) -> T {
    let target = connector.target();
    if target.timeout.is_some() {
        return work.await;
    }
    let began = Instant::now();
    let mut work = pin!(work);
    let mut next = began + LONG;
    loop {
        if let Ok(outcome) = timeout_at(next, work.as_mut()).await {
            return outcome;
        }
        let now = Instant::now();
        if logged.is_none_or(|logged| now - logged >= QUIET) {
            *logged = Some(now);
            let so_far = Duration::from_secs((now - began).as_secs());
            let cause = late(Cause::Timeout(so_far), connector);
            tracing::warn!("still waiting: {}", ExportError::new(signal, target, cause));
        }
        next = logged.map_or(now, |logged| logged + QUIET);
    }
}

// === impl Remote ===

impl Remote {
    /// Sends to `target`; nothing is connected before there is something to send.
    pub(super) fn new(signal: Signal, target: Target, own: ExporterSockets) -> Self {
        Self {
            signal,
            connector: Connector::new(signal, target, own),
            client: None,
            logged: None,
        }
    }

    /// Whether the target was ever reached.
    pub(super) fn contact(&self) -> Contact {
        self.connector.contact()
    }

    /// Makes a new client if there is none, or the certificates have changed.
    fn renew(&mut self) -> Result<(), ExportError> {
        let generation = self.connector.generation();
        let current = self
            .client
            .take()
            .filter(|client| client.generation == generation);
        self.client = Some(match current {
            Some(current) => current,
            None => Client {
                transport: exporting(self.signal, self.connector.clone())?,
                generation,
            },
        });
        Ok(())
    }

    /// A connection over which no answer came is not used again: the host may have vanished silently, and the name may
    /// have another address by now.
    fn judge(&mut self, outcome: &Result<Accepted, ExportError>) {
        let failed = outcome.as_ref().err().map(|error| &error.cause);
        self.connector.contact().judge(failed);
        if outcome.as_ref().is_err_and(|error| !error.was_answered()) {
            self.client = None;
        }
    }
}

#[async_trait]
impl Transport for Remote {
    async fn send(&mut self, request: ExportRequest) -> Result<Accepted, ExportError> {
        self.renew()?;
        let client = self.client.as_mut().expect("it was just made");
        let sending = client.transport.send(request);
        let outcome = watched(sending, &mut self.logged, self.signal, &self.connector).await;
        self.judge(&outcome);
        outcome
    }
}
