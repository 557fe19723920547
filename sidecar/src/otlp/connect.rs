//! Connections to a receiver: found by name anew each time, noted as flowcar's own, TLS by the files as they are now.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream, UnixStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower_service::Service;

use super::own::OwnSockets;
use crate::{
    certs::{CertError, Stamps},
    config::{Protocol, Target},
};

/// Makes the connections of one signal. Clones share what they know of the certificates.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    target: Arc<Target>,
    own: OwnSockets,
    tls: Arc<Mutex<Tls>>,
}

/// The certificates that were good last.
#[derive(Debug, Default)]
struct Tls {
    config: Option<Arc<ClientConfig>>,
    /// Of the files when they were read last, good or not.
    stamps: Option<Stamps>,
    /// Counts the changes.
    generation: u64,
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The network's fault.
    #[error("{0}")]
    Unreachable(String),
    /// The two ends do not trust each other.
    #[error("{0}")]
    Tls(String),
    /// A file of this end.
    #[error("{0}")]
    Files(#[from] CertError),
}

// === impl Connector ===

impl Connector {
    pub(super) fn new(target: Target, own: OwnSockets) -> Self {
        Self {
            target: Arc::new(target),
            own,
            tls: Arc::default(),
        }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Looks whether the certificates have changed; connections are good for as long as the number stays the same.
    pub(super) fn generation(&self) -> u64 {
        if self.is_tls() {
            // A file that cannot be used is told by the connection that needs it.
            let _ = self.tls();
        }
        self.lock().generation
    }

    fn is_tls(&self) -> bool {
        self.target.endpoint.scheme_str() == Some("https")
    }

    /// The certificates as they are now. While new ones are no good (half written, say), the last good ones serve.
    fn tls(&self) -> Result<Arc<ClientConfig>, CertError> {
        let files = &self.target.tls;
        let stamps = files.stamps();
        let mut tls = self.lock();
        if let Some(config) = tls.config.clone()
            && tls.stamps.as_ref() == Some(&stamps)
        {
            return Ok(config);
        }
        let alpn: &[u8] = match self.target.protocol {
            Protocol::Grpc => b"h2",
            Protocol::HttpProtobuf => b"http/1.1",
        };
        match (files.load(alpn), tls.config.clone()) {
            (Ok(config), before) => {
                let config = Arc::new(config);
                if before.is_some() {
                    tracing::info!("the certificates have changed: {files}");
                    tls.generation += 1;
                }
                tls.config = Some(Arc::clone(&config));
                tls.stamps = Some(stamps);
                Ok(config)
            }
            (Err(error), Some(before)) => {
                // Said once for each change.
                tls.stamps = Some(stamps);
                tracing::warn!(
                    "the certificates have changed, and the old ones stay in use because {error}; write both files, the key first"
                );
                Ok(before)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn connect(self) -> Result<TokioIo<Stream>, ConnectError> {
        if let Some(path) = &self.target.socket {
            return Ok(TokioIo::new(Stream::Unix(unix(path).await?)));
        }
        let uri = &self.target.endpoint;
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16();
        let port = port.unwrap_or(if self.is_tls() { 443 } else { 80 });
        let stream = self.tcp(host, port).await?;
        if !self.is_tls() {
            return Ok(TokioIo::new(Stream::Tcp(stream)));
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| ConnectError::Tls(format!("{host} cannot be checked ({error})")))?;
        let connector = TlsConnector::from(self.tls()?);
        let stream = connector.connect(name, stream).await.map_err(|error| {
            let files = &self.target.tls;
            ConnectError::Tls(format!("{error}; {files}"))
        })?;
        Ok(TokioIo::new(Stream::Tls(Box::new(stream))))
    }

    /// Tries each address that the name has now.
    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
        let unreachable =
            |error: io::Error| ConnectError::Unreachable(format!("{host}:{port}: {error}"));
        let found: Vec<_> = lookup_host((host, port))
            .await
            .map_err(unreachable)?
            .collect();
        let share = u32::try_from(found.len())
            .map_or(Duration::ZERO, |count| self.target.timeout / count.max(1));
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in found {
            match timeout(share, self.dial(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => {
                    last = io::Error::new(error.kind(), format!("{address}: {error}"))
                }
                Err(_) => {
                    let slow = format!("{address}: no connection within {share:?}");
                    last = io::Error::new(io::ErrorKind::TimedOut, slow);
                }
            }
        }
        Err(ConnectError::Unreachable(last.to_string()))
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // Before it is connected: then no record of the kernel about it can come earlier.
        self.own.note(&socket);
        socket.set_nodelay(true)?;
        socket.connect(address).await
    }

    fn lock(&self) -> MutexGuard<'_, Tls> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn unix(path: &Path) -> Result<UnixStream, ConnectError> {
    let stream = UnixStream::connect(path).await;
    stream.map_err(|error| ConnectError::Unreachable(format!("{}: {error}", path.display())))
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    /// The URL is the target's: there is no other.
    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A connection of any kind.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Hands a call on to the stream that it is.
macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
