//! `flowcar sink`: a small OTLP receiver that prints what arrives, for trials.
//!
//! It accepts everything that decodes and refuses the rest; it stores nothing.

mod command;
mod grpc;
mod http;
mod lines;
mod plot;
mod text;

use std::{io, net::SocketAddr};

pub use command::{SinkArgs, sink};
pub use lines::json_line;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
pub use text::text;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

/// The most bytes of a request, compressed and decompressed: what the OTLP specification recommends.
const MOST_BODY: usize = 64 << 20;

/// The most exports that wait to be printed; with more, a sender waits for its answer.
const WAITING: usize = 64;

/// One export.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// Metrics.
    Metrics(ExportMetricsServiceRequest),
    /// Spans.
    Traces(ExportTraceServiceRequest),
    /// Log records.
    Logs(ExportLogsServiceRequest),
}

/// The channel to which both servers pass exports.
type Hand = mpsc::Sender<Received>;

/// Both servers; they stop when it is dropped.
#[derive(Debug)]
pub struct Sink {
    grpc: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    _servers: JoinSet<()>,
}

impl Sink {
    /// Listens for gRPC and for HTTP; port 0 takes a free one. Each export is in the receiver before its sender has its
    /// answer.
    ///
    /// # Errors
    /// If an address cannot be listened on.
    pub async fn start(
        grpc: SocketAddr,
        http: SocketAddr,
    ) -> io::Result<(Self, mpsc::Receiver<Received>)> {
        Self::start_on(&[grpc], &[http]).await
    }

    /// The same, on all addresses of the names.
    ///
    /// # Errors
    /// If none of a name's addresses can be listened on.
    pub async fn start_on(
        grpc: &[SocketAddr],
        http: &[SocketAddr],
    ) -> io::Result<(Self, mpsc::Receiver<Received>)> {
        let (hand, received) = mpsc::channel(WAITING);
        let (grpc_listeners, http_listeners) = (listen(grpc).await?, listen(http).await?);
        let (grpc, http) = (addresses(&grpc_listeners)?, addresses(&http_listeners)?);
        let mut servers = JoinSet::new();
        for listener in grpc_listeners {
            servers.spawn(grpc::serve(listener, hand.clone()));
        }
        for listener in http_listeners {
            servers.spawn(http::serve(listener, hand.clone()));
        }
        let sink = Self {
            grpc,
            http,
            _servers: servers,
        };
        Ok((sink, received))
    }

    /// The first address for gRPC.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc[0]
    }

    /// The first address for HTTP.
    pub fn http(&self) -> SocketAddr {
        self.http[0]
    }

    /// All addresses for gRPC, and all for HTTP.
    pub fn addresses(&self) -> (&[SocketAddr], &[SocketAddr]) {
        (&self.grpc, &self.http)
    }
}

/// Listens on each of a name's addresses that can be listened on, which is at least one.
async fn listen(name: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut failed = None;
    for address in name {
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                let text = format!("{address}: {error}");
                failed.get_or_insert(io::Error::new(error.kind(), text));
            }
        }
        // A free port of one address need not be free at the next.
        if address.port() == 0 && !listeners.is_empty() {
            break;
        }
    }
    match failed {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

fn addresses(listeners: &[TcpListener]) -> io::Result<Vec<SocketAddr>> {
    listeners.iter().map(TcpListener::local_addr).collect()
}

#[cfg(test)]
mod tests;
