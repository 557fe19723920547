//! Accepts connections, and closes each one.

use std::{convert::Infallible, fmt, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use http::Request;
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::Instant,
};

use super::connections::{ConnectionPermit, Connections};
use crate::{
    client::Source,
    metrics::{Closed, Metrics},
};

/// A connection without an answered request is closed after this: a client connects in order to ask.
const FIRST: Duration = Duration::from_secs(10);

/// An idle connection is closed after this. Longer than the 90 s after which the API server closes it itself
/// (`k8s.io/apimachinery/pkg/util/net`, `http.DefaultTransport`), so that it never asks on one that is being closed.
const IDLE: Duration = Duration::from_secs(120);

/// How long requests in progress may take on a connection that is being closed.
const GRACE: Duration = Duration::from_secs(5);

/// How often a client that is silent is asked over HTTP/2 whether it is still there, and how long it has to
/// answer.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// The longest head of a request, in bytes. The API server's has some 300.
const HEAD: u32 = 16 << 10;

/// Requests at once on one connection: the API server opens another one when it needs more.
const STREAMS: u32 = 128;

/// Who asks: an extension of every request.
pub(super) struct Caller {
    /// The connection.
    pub(super) permit: Arc<ConnectionPermit>,
    /// Where it comes from.
    pub(super) source: Source,
    /// The API server has shown its client certificate.
    pub(super) verified: bool,
}

/// What a listener needs to know about its connections.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) connections: Connections,
    pub(super) metrics: Metrics,
    /// How long a handshake may take.
    pub(super) handshake: Duration,
    /// True once no more connections are to be accepted.
    pub(super) stop: watch::Receiver<bool>,
}

// === impl Listener ===

impl Listener {
    /// Serves until it is stopped, then closes every connection after the requests in progress; returns when
    /// none is left. `handshake` makes a stream of a connection and returns whether the client is verified.
    pub(super) async fn serve<H, F, T>(mut self, handshake: H, router: Router)
    where
        H: Fn(TcpStream) -> F + Clone + Send + 'static,
        F: Future<Output = Option<(T, bool)>> + Send,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let builder = builder();
        let router = TowerToHyperService::new(router);
        let (left, mut none_left) = mpsc::channel::<Infallible>(1);
        loop {
            let (stream, address) = tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok(accepted) => accepted,
                    // Out of memory for sockets, most likely: others will be freed.
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = asked(&mut self.stop) => break,
            };
            let source = Source::of(address.ip());
            let life = Life {
                permit: Arc::new(self.connections.admit(source)),
                source,
                metrics: self.metrics.clone(),
                stop: self.stop.clone(),
                deadline: self.handshake,
            };
            let (handshake, router, builder) = (handshake.clone(), router.clone(), builder.clone());
            let left = left.clone();
            tokio::spawn(async move {
                let (permit, metrics) = (life.permit.clone(), life.metrics.clone());
                tokio::select! {
                    () = permit.evicted() => metrics.connection_closed(Closed::NoRoom),
                    () = life.live(stream, handshake, router, builder) => {}
                }
                drop(left);
            });
        }
        drop(self.socket);
        drop(left);
        none_left.recv().await;
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .max_header_list_size(HEAD)
        .max_concurrent_streams(STREAMS);
    builder
}

/// Drops the guard that the channel lends, which may not be held while others are awaited.
async fn asked(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// One connection, from its acceptance to its close.
struct Life {
    permit: Arc<ConnectionPermit>,
    source: Source,
    metrics: Metrics,
    stop: watch::Receiver<bool>,
    deadline: Duration,
}

// === impl Life ===

impl Life {
    async fn live<H, F, T>(
        self,
        stream: TcpStream,
        handshake: H,
        router: TowerToHyperService<Router>,
        builder: auto::Builder<TokioExecutor>,
    ) where
        H: Fn(TcpStream) -> F,
        F: Future<Output = Option<(T, bool)>>,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let (stream, verified) = match tokio::time::timeout(self.deadline, handshake(stream)).await
        {
            Ok(Some(secured)) => secured,
            Ok(None) => return,
            Err(_) => return self.metrics.connection_closed(Closed::Handshake),
        };
        if verified {
            self.permit.verified();
        }
        let caller = Arc::new(Caller {
            permit: self.permit.clone(),
            source: self.source,
            verified,
        });
        let service = service_fn(move |mut request: Request<Incoming>| {
            let in_progress = caller.permit.begin();
            request.extensions_mut().insert(caller.clone());
            let answer = router.call(request);
            async move {
                let answer = answer.await;
                drop(in_progress);
                answer
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        self.converse(pin!(connection)).await;
    }

    /// Serves the connection until the client closes it, it has been idle for too long or the process stops.
    async fn converse<C>(mut self, mut connection: std::pin::Pin<&mut C>)
    where
        C: hyper_util::server::graceful::GracefulConnection,
        C::Error: fmt::Debug,
    {
        let mut end: Option<Instant> = None;
        let mut stopping = false;
        loop {
            let verify = end.unwrap_or_else(|| self.due());
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(?error, "a connection ended early");
                    }
                    return;
                }
                () = asked(&mut self.stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep_until(verify) => {
                    if end.is_some() {
                        return;
                    }
                    if self.permit.idle().is_some() && self.due() <= Instant::now() {
                        self.metrics.connection_closed(Closed::Idle);
                        connection.as_mut().graceful_shutdown();
                        end = Some(Instant::now() + GRACE);
                    }
                }
            }
        }
    }

    /// When it will have been idle for too long; while a request is in progress, when to check again.
    fn due(&self) -> Instant {
        match self.permit.idle() {
            Some((since, true)) => since + IDLE,
            Some((since, false)) => since + FIRST,
            None => Instant::now() + GRACE,
        }
    }
}
