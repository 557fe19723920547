//! Connections, requests and the way they end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::Certificate;
use crate::admit::{self, Answer};
use crate::cluster::ClusterView;
use crate::config::Settings;
use crate::events::Events;
use crate::metrics::Metrics;

/// Where reviews are posted.
pub const ADMIT_PATH: &str = "/admit";

/// The largest review that is read, in bytes. The API server's own limit on objects is 3 MiB, and a review
/// carries up to two of them.
pub const MAX_BODY: usize = 10 << 20;

/// How much of a body that is too large is read on all the same, in bytes: a client that still writes when the
/// connection is closed does not see the answer.
const DRAIN: usize = 4 * MAX_BODY;

/// A handshake, a request's head or its body that takes longer is somebody else's: the API server itself gives up
/// after the webhook's timeout of 5 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// Larger bodies are read on another thread, so that they hold nobody up, and one after the other, as each
/// costs many times its size in memory.
const INLINE_BODY: usize = 256 << 10;

/// All that a request needs.
pub struct App {
    /// The operator's configuration.
    pub settings: Settings,
    /// What is known about the cluster.
    pub cluster: ClusterView,
    /// Where Events go.
    pub events: Events,
    /// Where numbers go.
    pub metrics: Metrics,
    /// The serving certificate.
    pub certificate: Certificate,
    /// True once the process was asked to stop.
    pub draining: watch::Receiver<bool>,
    /// The turn of the large body that is being answered.
    pub large: Semaphore,
}

/// Why a request has no body to answer.
enum Unread {
    TooLarge,
    Late,
    Broken,
}

pub(super) type Reply = Response<Full<Bytes>>;

/// Serves admission until `stop`, then ends the connections, each after the request in progress.
pub async fn serve_admission(
    listener: TcpListener,
    app: Arc<App>,
    mut stop: watch::Receiver<bool>,
    deadline: Duration,
) {
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors, most likely: others will be freed.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = asked(&mut stop) => break,
        };
        let (app, builder, watcher) = (app.clone(), builder.clone(), graceful.watcher());
        tokio::spawn(async move {
            let Some(stream) = handshake(stream, &app.certificate).await else {
                return;
            };
            let service = service_fn(move |request| admission(request, app.clone()));
            let connection = builder
                .serve_connection(TokioIo::new(stream), service)
                .into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(deadline, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("connections were still busy when the drain's deadline passed");
    }
}

/// Drops the guard that the channel lends, which may not be held while others are awaited.
async fn asked(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

async fn handshake(
    stream: TcpStream,
    certificate: &Certificate,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    stream.set_nodelay(true).ok()?;
    let acceptor = TlsAcceptor::from(certificate.current()?);
    match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

async fn admission(request: Request<Incoming>, app: Arc<App>) -> Result<Reply, Infallible> {
    if request.uri().path() != ADMIT_PATH {
        return Ok(text(
            StatusCode::NOT_FOUND,
            "reviews are posted to /admit\n",
        ));
    }
    if request.method() != Method::POST {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "reviews are posted\n"));
    }
    let started = Instant::now();
    let most = request.body().size_hint().upper();
    let is_small = most.is_some_and(|most| most <= INLINE_BODY as u64);
    let _turn = match is_small {
        true => None,
        false => app.large.acquire().await.ok(),
    };
    let body = tokio::time::timeout(PATIENCE, read(request.into_body())).await;
    let body = match body.unwrap_or(Err(Unread::Late)) {
        Ok(body) => body,
        Err(unread) => return Ok(unread.reply()),
    };
    let answer = answer(body, &app).await;
    app.metrics
        .reviewed(answer.decision, &answer.reasons, started.elapsed());
    for told in answer.events {
        app.events.tell(told, &app.metrics);
    }
    let bytes = answer.review.to_string();
    Ok(reply(StatusCode::OK, "application/json", bytes))
}

async fn read(mut body: Incoming) -> Result<Bytes, Unread> {
    let most = usize::try_from(body.size_hint().upper().unwrap_or_default()).unwrap_or(usize::MAX);
    if most > DRAIN {
        return Err(Unread::TooLarge);
    }
    let mut bytes = BytesMut::with_capacity(most.min(MAX_BODY));
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else {
            continue;
        };
        length += data.len();
        if length > DRAIN {
            break;
        }
        if length <= MAX_BODY {
            bytes.extend_from_slice(&data);
        }
    }
    if length > MAX_BODY {
        return Err(Unread::TooLarge);
    }
    Ok(bytes.freeze())
}

async fn answer(body: Bytes, app: &Arc<App>) -> Answer {
    if body.len() <= INLINE_BODY {
        return match admit::Request::decode(&body) {
            Ok(request) => finish(request, app).await,
            Err(malformed) => malformed.answer(),
        };
    }
    match tokio::task::spawn_blocking(move || admit::Request::decode(&body)).await {
        Ok(Ok(request)) => finish(request, app).await,
        Ok(Err(malformed)) => malformed.answer(),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

async fn finish(request: admit::Request, app: &App) -> Answer {
    let cluster = app.cluster.for_namespace(&request.namespace).await;
    request.answer(cluster, &app.settings)
}

// === impl Unread ===

impl Unread {
    fn reply(self) -> Reply {
        match self {
            Self::TooLarge => text(
                StatusCode::PAYLOAD_TOO_LARGE,
                "a review has at most 10 MiB\n",
            ),
            Self::Late => text(
                StatusCode::REQUEST_TIMEOUT,
                "the body took longer than 5 s\n",
            ),
            Self::Broken => text(StatusCode::BAD_REQUEST, "the body ended early\n"),
        }
    }
}

pub(super) fn text(status: StatusCode, text: &'static str) -> Reply {
    reply(status, "text/plain; charset=utf-8", text)
}

pub(super) fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    reply
}
