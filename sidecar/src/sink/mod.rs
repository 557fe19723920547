//! `flowcar sink`: a small OTLP receiver that prints what comes, for trying things out.
//!
//! It takes everything that decodes and says no to the rest; it keeps nothing.

mod command;
mod grpc;
mod http;
mod lines;
mod plot;
mod text;

use std::{io, net::SocketAddr};

use opentelemetry_proto::tonic::collector::{
    metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

pub use command::{SinkArgs, sink};
pub use lines::json_line;
pub use text::text;

/// Bytes of a request, at most, packed and unpacked: what the OTLP specification recommends.
const MOST_BODY: usize = 64 << 20;

/// Exports that wait to be looked at; a sender waits for its answer when there are more.
const WAITING: usize = 64;

/// One export.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// Metrics.
    Metrics(ExportMetricsServiceRequest),
    /// Spans.
    Traces(ExportTraceServiceRequest),
}

/// Where both servers hand exports to.
type Hand = mpsc::Sender<Received>;

/// Both servers; they stop when it is dropped.
#[derive(Debug)]
pub struct Sink {
    grpc: SocketAddr,
    http: SocketAddr,
    _servers: JoinSet<()>,
}

impl Sink {
    /// Listens for gRPC and for HTTP; port 0 takes a free one. Exports come out of the receiver, each before its
    /// sender has its answer.
    ///
    /// # Errors
    /// If an address cannot be listened on.
    pub async fn start(
        grpc: SocketAddr,
        http: SocketAddr,
    ) -> io::Result<(Self, mpsc::Receiver<Received>)> {
        let (hand, received) = mpsc::channel(WAITING);
        let grpc_listener = listen(grpc).await?;
        let http_listener = listen(http).await?;
        let (grpc, http) = (grpc_listener.local_addr()?, http_listener.local_addr()?);
        let mut servers = JoinSet::new();
        servers.spawn(grpc::serve(grpc_listener, hand.clone()));
        servers.spawn(http::serve(http_listener, hand));
        let sink = Self {
            grpc,
            http,
            _servers: servers,
        };
        Ok((sink, received))
    }

    /// Where it takes gRPC.
    pub const fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where it takes HTTP.
    pub const fn http(&self) -> SocketAddr {
        self.http
    }
}

async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

#[cfg(test)]
mod tests;
