//! Connections to a receiver: the name is resolved each time, the socket is noted as flowcar's own, TLS uses the current files.

mod contact;
mod scope;
mod stream;
mod tunnel;

use std::{
    future::Future,
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Uri, header::PROXY_AUTHORIZATION};
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UnixStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tower_service::Service;

pub(super) use self::{contact::Contact, stream::Stream};
use self::{stream::Carrier, tunnel::tunnel};
use super::{
    error::Cause,
    speech::{FirstBytes, Mismatch, Phase, Speech},
};
use crate::{
    certs::{self, Fault},
    config::{Headers, Protocol, Signal, Target},
    exporter_sockets::ExporterSockets,
    files::{FileError, Stamps},
};

/// Makes the connections of one signal. Clones share the state of the certificates.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    signal: Signal,
    target: Arc<Target>,
    own: ExporterSockets,
    tls: Arc<Mutex<Tls>>,
    file: Arc<Mutex<HeadersFile>>,
    contact: Contact,
    first_bytes: FirstBytes,
}

/// The last valid headers of the file.
#[derive(Debug, Default)]
struct HeadersFile {
    headers: Option<Headers>,
    /// The file's stamps when it was last read, valid or not.
    stamps: Stamps,
}

/// The last valid certificates.
#[derive(Debug, Default)]
struct Tls {
    config: Option<Arc<ClientConfig>>,
    /// The files' stamps when they were last read, valid or not.
    stamps: Option<Stamps>,
    /// Counts the changes.
    generation: u64,
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// A network error.
    #[error("{0}")]
    Unreachable(String),
    /// The interface in the zone of the address is absent.
    #[error("{0}")]
    Interface(String),
    /// Nothing answered the attempts to connect in time.
    #[error("no TCP connection within {0:?}")]
    Slow(Duration),
    /// The two ends do not trust each other.
    #[error("{0}")]
    Tls(String),
    /// The receiver's certificate is not valid for it now.
    #[error("{}", .0.wrong)]
    Certificate(Fault),
    /// The receiver speaks another protocol.
    #[error("{0}")]
    Mismatch(Mismatch),
    /// An error in a local file.
    #[error("{0}")]
    Files(#[from] FileError),
    /// An error at the proxy.
    #[error("{0}")]
    Proxy(String),
}

// === impl Connector ===

impl Connector {
    pub(super) fn new(signal: Signal, target: Target, own: ExporterSockets) -> Self {
        let first_bytes = FirstBytes::default();
        let connector = Self {
            signal,
            target: Arc::new(target),
            own,
            tls: Arc::default(),
            file: Arc::default(),
            contact: Contact::new(first_bytes.clone()),
            first_bytes,
        };
        // Valid files of the start are used until there are newer valid ones. The first request reports errors in the files.
        let _ = connector.headers();
        connector
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Whether the receiver was ever reached.
    pub(super) fn contact(&self) -> Contact {
        self.contact.clone()
    }

    /// How far the newest connection is.
    pub(super) fn phase(&self) -> Phase {
        self.first_bytes.phase()
    }

    /// The protocol of the receiver, if it is not the configured one. Where a proxy forwards the requests, the first bytes are the proxy's.
    pub(super) fn mismatch(&self) -> Option<Mismatch> {
        if self.target.is_forwarded() {
            return None;
        }
        self.first_bytes.mismatch(self.target.protocol)
    }

    /// Whether the newest connection closed before anything was received over it.
    pub(super) fn received_nothing(&self) -> bool {
        self.first_bytes.nothing()
    }

    /// The protocol of a receiver that closed an HTTP/2 connection silently, as some HTTP/1 servers do: found over a connection of
    /// its own. `None` if the receiver does not answer that, either.
    pub(super) async fn ask_in_http1(&self) -> Option<Mismatch> {
        const PATIENCE: Duration = Duration::from_secs(2);
        let target = &self.target;
        if self.is_tls() || target.socket.is_some() || target.proxy.is_some() {
            return None;
        }
        let (host, port) = self.host_and_port();
        let request = format!("GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
        let mut answer = [0; 64];
        let ask = async {
            let mut stream = self.straight().await.ok()?;
            stream.write_all(request.as_bytes()).await.ok()?;
            stream.read(&mut answer).await.ok()
        };
        let read = timeout(PATIENCE, ask).await.ok()??;
        Mismatch::between(target.protocol, false, &answer[..read])
    }

    /// Checks whether the certificates have changed; connections are valid while the number stays the same.
    pub(super) fn generation(&self) -> u64 {
        if self.is_tls() {
            // The connection that needs an unusable file reports it.
            let _ = self.tls();
        }
        self.lock().generation
    }

    /// The headers of a request, from the settings and the current file. While the file is invalid or absent, its last valid
    /// headers are used.
    pub(super) fn headers(&self) -> Result<HeaderMap, FileError> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.target.headers.iter() {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(path) = &self.target.headers_file {
            for (name, value) in self.headers_file(path)?.iter() {
                headers.insert(name.clone(), value.clone());
            }
        }
        let proxy = self.target.proxy.as_ref();
        let proxy = proxy.filter(|_| self.target.is_forwarded());
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.clone()) {
            headers.insert(PROXY_AUTHORIZATION, authorization);
        }
        Ok(headers)
    }

    fn headers_file(&self, path: &Path) -> Result<Headers, FileError> {
        let stamps = Stamps::of(std::iter::once(path));
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(headers) = file.headers.clone()
            && file.stamps == stamps
        {
            return Ok(headers);
        }
        match (Headers::read(path), file.headers.clone()) {
            (Ok(headers), before) => {
                if before.is_some_and(|before| before != headers) {
                    let signal = self.signal.name();
                    tracing::info!(signal, "the headers in {} have changed", path.display());
                }
                *file = HeadersFile {
                    headers: Some(headers.clone()),
                    stamps,
                };
                Ok(headers)
            }
            (Err(error), Some(before)) => {
                // Logged once for each change.
                file.stamps = stamps;
                let signal = self.signal.name();
                tracing::warn!(
                    signal,
                    "the headers that were there last stay in use because {error}"
                );
                Ok(before)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn is_tls(&self) -> bool {
        self.target.endpoint.scheme_str() == Some("https")
    }

    /// The current certificates. While new ones are invalid, for example half written, the last valid ones are used.
    fn tls(&self) -> Result<Arc<ClientConfig>, FileError> {
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
                    let signal = self.signal.name();
                    tracing::info!(signal, "the certificates have changed: {files}");
                    tls.generation += 1;
                }
                tls.config = Some(Arc::clone(&config));
                tls.stamps = Some(stamps);
                Ok(config)
            }
            (Err(error), Some(before)) => {
                // Logged once for each change.
                tls.stamps = Some(stamps);
                let signal = self.signal.name();
                tracing::warn!(
                    signal,
                    "the certificates have changed, and the old ones stay in use because {error}; write both files, the key first"
                );
                Ok(before)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn connect(self) -> Result<TokioIo<Stream>, ConnectError> {
        self.first_bytes.forget();
        if let Some(path) = &self.target.socket {
            let stream = Carrier::Unix(unix(path).await?);
            return Ok(TokioIo::new(self.plain(stream)));
        }
        let carrier = match &self.target.proxy {
            None => Carrier::Tcp(self.straight().await?),
            Some(proxy) => {
                let stream = self.tcp(&proxy.host, proxy.port).await;
                let stream = stream.map_err(|error| {
                    ConnectError::Proxy(format!("no connection to {proxy}: {error}"))
                })?;
                if self.target.is_forwarded() {
                    self.first_bytes.begin(false);
                    let stream = self.first_bytes.over(stream);
                    return Ok(TokioIo::new(Stream::Forwarded(stream)));
                }
                self.first_bytes.enter(Phase::Tunnelling);
                let (host, port) = self.host_and_port();
                Carrier::Tunnel(tunnel(stream, &format!("{host}:{port}"), proxy).await?)
            }
        };
        let stream = if self.is_tls() {
            self.secured(carrier).await?
        } else {
            self.plain(carrier)
        };
        Ok(TokioIo::new(stream))
    }

    /// The receiver's host, an IPv6 address in brackets, and its port.
    fn host_and_port(&self) -> (&str, u16) {
        let uri = &self.target.endpoint;
        let port = uri.port_u16();
        let port = port.unwrap_or(if self.is_tls() { 443 } else { 80 });
        (uri.host().unwrap_or_default(), port)
    }

    async fn straight(&self) -> Result<TcpStream, ConnectError> {
        let (host, port) = self.host_and_port();
        let host = host.trim_matches(['[', ']']);
        // Not by the resolver: glibc takes a zone by name for link-local addresses only.
        match (&self.target.zone, host.parse::<Ipv6Addr>()) {
            (Some(zone), Ok(address)) => {
                let scope = scope::id(zone)?;
                let address = SocketAddrV6::new(address, port, 0, scope);
                self.first_of(&[address.into()]).await
            }
            _ => self.tcp(host, port).await,
        }
    }

    async fn secured(&self, carrier: Carrier) -> Result<Stream, ConnectError> {
        let (host, _) = self.host_and_port();
        let host = host.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| ConnectError::Tls(format!("{host} cannot be checked ({error})")))?;
        let connector = TlsConnector::from(self.tls()?);
        self.first_bytes.begin(true);
        let stream = connector
            .connect(name, self.first_bytes.over(carrier))
            .await;
        let stream = stream.map_err(|error| self.no_tls(&error))?;
        self.first_bytes.begin(false);
        Ok(Stream::Tls(Box::new(self.first_bytes.over(stream))))
    }

    fn plain(&self, carrier: Carrier) -> Stream {
        self.first_bytes.begin(false);
        Stream::Plain(self.first_bytes.over(carrier))
    }

    /// Why the TLS handshake fails.
    fn no_tls(&self, error: &io::Error) -> ConnectError {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        let mismatch = match inner {
            // The receiver knows the protocol that is requested (RFC 7301), and does not support it.
            Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                Some(Mismatch {
                    wanted: self.target.protocol,
                    speech: match self.target.protocol {
                        Protocol::Grpc => Speech::Http1,
                        Protocol::HttpProtobuf => Speech::Http2,
                    },
                    without_tls: false,
                })
            }
            _ => self.mismatch(),
        };
        if let Some(mismatch) = mismatch {
            return ConnectError::Mismatch(mismatch);
        }
        if let Some(fault) = inner.and_then(certs::fault) {
            return ConnectError::Certificate(fault);
        }
        let why = match inner {
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                ": it is not signed by any authority that it is checked against"
            }
            _ => "",
        };
        ConnectError::Tls(format!("{error}{why}; {}", self.target.tls))
    }

    /// Tries each current address of the name.
    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
        let unreachable = |error: io::Error| {
            let (open, close) = if host.contains(':') {
                ("[", "]")
            } else {
                ("", "")
            };
            ConnectError::Unreachable(format!("{open}{host}{close}:{port}: {error}"))
        };
        self.first_bytes.enter(Phase::Resolving);
        let found: Vec<_> = lookup_host((host, port))
            .await
            .map_err(unreachable)?
            .collect();
        self.first_of(&found).await
    }

    /// The first address that takes a connection.
    async fn first_of(&self, addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
        self.first_bytes.enter(Phase::Connecting);
        let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        // Without a limit the kernel's applies, some two minutes for each address.
        let share = self
            .target
            .timeout
            .map_or(Duration::MAX, |limit| limit / count);
        let (mut failed, mut slow) = (Vec::new(), false);
        for address in addresses {
            match timeout(share, self.dial(*address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed.push(format!("{address}: {error}")),
                Err(_) => {
                    slow = true;
                    let share = Duration::from_millis(share.as_millis() as u64);
                    failed.push(format!("{address}: no TCP connection within {share:?}"));
                }
            }
        }
        Err(match (failed.len(), slow) {
            (0, _) => ConnectError::Unreachable("the name has no address".to_owned()),
            (1, true) => ConnectError::Slow(share),
            _ => ConnectError::Unreachable(failed.join("; ")),
        })
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // Before connect: no kernel record about the socket can come earlier.
        self.own.note(&socket);
        socket.set_nodelay(true)?;
        // A wait without a limit must notice a dead peer, too.
        socket.set_keepalive(true)?;
        socket.connect(address).await
    }

    fn lock(&self) -> MutexGuard<'_, Tls> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of the work within the target's timeout.
pub(super) async fn in_time<T>(target: &Target, work: impl Future<Output = T>) -> Result<T, Cause> {
    match target.timeout {
        Some(limit) => timeout(limit, work)
            .await
            .map_err(|_| Cause::Timeout(limit)),
        None => Ok(work.await),
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
        let contact = self.contact();
        let connecting = self.clone().connect();
        Box::pin(async move {
            let stream = connecting.await;
            contact.note(stream.is_ok());
            stream
        })
    }
}
