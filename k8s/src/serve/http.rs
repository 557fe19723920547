//! Reviews, from the request to the answer.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use http::{StatusCode, Uri, header};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Certificate,
    body::{self, INLINE_BODY, Unread},
    connections::{Connections, Limits},
    listener::{Caller, Listener},
};
use crate::{
    admit::{self, Answer},
    clock,
    cluster::ClusterView,
    config::Settings,
    events::{AskedBy, Events},
    metrics::Metrics,
};

/// Where reviews are posted.
pub const ADMIT_PATH: &str = "/admit";

/// Connections at once: every API server of a cluster has a few.
const CONNECTIONS: usize = 512;

/// Connections of one source at once.
const PER_SOURCE: usize = 128;

/// Bytes of requests and answers in progress. With what decoding one large body takes, it has to stay below the
/// container's limit of 128 MiB in the chart.
const MEMORY: usize = 24 << 20;

/// All that a request needs.
pub struct App {
    /// The operator's configuration.
    pub settings: Settings,
    /// What is known about the cluster.
    pub cluster: ClusterView,
    /// Where Events go.
    pub events: Events,
    /// Where metrics go.
    pub metrics: Metrics,
    /// The serving certificate.
    pub certificate: Certificate,
    /// True once the process was asked to stop.
    pub draining: watch::Receiver<bool>,
    /// Held while a large body is decoded.
    pub large: Semaphore,
    /// How long the API server waits for an answer, where the request does not state it.
    pub timeout: Duration,
}

/// Serves admission until `stop`, then closes the connections, each after the requests in progress.
pub async fn serve_admission(
    socket: TcpListener,
    app: Arc<App>,
    stop: watch::Receiver<bool>,
    deadline: Duration,
) {
    let listener = Listener {
        socket,
        connections: Connections::new(Limits {
            total: crate::descriptors::share_of(CONNECTIONS),
            per_source: PER_SOURCE,
            memory: MEMORY,
        }),
        metrics: app.metrics.clone(),
        handshake: patience(app.timeout),
        stop: stop.clone(),
    };
    let certificate = app.certificate.clone();
    let handshake = move |stream| secure(stream, certificate.clone());
    let serving = listener.serve(handshake, router(app));
    let overdue = async {
        let mut stop = stop;
        drop(stop.wait_for(|stop| *stop).await);
        tokio::time::sleep(deadline).await;
    };
    tokio::select! {
        () = serving => {}
        () = overdue => tracing::warn!("connections were still busy when the drain's deadline passed"),
    }
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(ADMIT_PATH, post(admission))
        .method_not_allowed_fallback((StatusCode::METHOD_NOT_ALLOWED, "reviews are posted\n"))
        .fallback((StatusCode::NOT_FOUND, "reviews are posted to /admit\n"))
        .with_state(app)
}

/// How long answering may take if the API server waits that long.
fn patience(timeout: Duration) -> Duration {
    timeout * 4 / 5
}

/// How long the API server waits for this answer: the request states it in `?timeout=5s`
/// (`k8s.io/apiserver/pkg/admission/plugin/webhook/mutating/dispatcher.go`).
fn timeout_of(uri: &Uri) -> Option<Duration> {
    let mut parameters = uri.query()?.split('&');
    let text = parameters.find_map(|pair| pair.strip_prefix("timeout="))?;
    crate::text::duration(text).ok()
}

async fn secure(
    stream: TcpStream,
    certificate: Certificate,
) -> Option<(TlsStream<TcpStream>, bool)> {
    let acceptor = TlsAcceptor::from(certificate.current()?);
    match acceptor.accept(stream).await {
        Ok(stream) => match certificate.client(stream.get_ref().1) {
            Ok(verified) => Some((stream, verified)),
            Err(name) => {
                tracing::warn!(%name, "a client with a valid certificate is not one of those that may ask");
                None
            }
        },
        Err(error) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
    }
}

async fn admission(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Caller>>,
    uri: Uri,
    body: Body,
) -> Response {
    let started = clock::now();
    let asked = timeout_of(&uri).unwrap_or(app.timeout);
    let deadline = tokio::time::Instant::now() + patience(asked.min(app.timeout));
    let (bytes, charge) = match body::read(body, &caller.permit, deadline).await {
        Ok(read) => read,
        Err(unread) => return refuse(&unread, &app),
    };
    // A large body waits for its turn only when it is complete: no request waits for another one's network.
    let _turn = match bytes.len() <= INLINE_BODY {
        true => None,
        false => match tokio::time::timeout_at(deadline, app.large.acquire()).await {
            Ok(turn) => turn.ok(),
            Err(_) => return refuse(&Unread::NoRoom, &app),
        },
    };
    let answer = answer(bytes, deadline, &app).await;
    if answer.decision != "malformed" {
        caller.permit.proven();
    }
    app.metrics
        .reviewed(answer.decision, &answer.reasons, started.elapsed());
    let asked = match caller.verified {
        true => AskedBy::ByApiServer,
        false => AskedBy::By(caller.source),
    };
    for event in answer.events {
        app.events.offer(event, asked, &app.metrics);
    }
    let body = body::held(answer.review.to_string(), charge);
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn answer(body: Bytes, deadline: tokio::time::Instant, app: &Arc<App>) -> Answer {
    if body.len() <= INLINE_BODY {
        return match admit::Request::decode(&body) {
            Ok(request) => finish(request, deadline, app).await,
            Err(malformed) => malformed.answer(),
        };
    }
    match tokio::task::spawn_blocking(move || admit::Request::decode(&body)).await {
        Ok(Ok(request)) => finish(request, deadline, app).await,
        Ok(Err(malformed)) => malformed.answer(),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

async fn finish(request: admit::Request, deadline: tokio::time::Instant, app: &App) -> Answer {
    let cluster = app
        .cluster
        .for_namespace(&request.namespace, deadline)
        .await;
    request.answer(cluster, &app.settings)
}

fn refuse(unread: &Unread, app: &App) -> Response {
    app.metrics.unread(unread.reason());
    unread.words().into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{patience, timeout_of};

    #[test]
    fn the_api_servers_own_timeout_is_read() {
        let of = |uri: &str| timeout_of(&uri.parse().expect("a URI"));
        assert_eq!(of("/admit?timeout=5s"), Some(Duration::from_secs(5)));
        assert_eq!(
            of("/admit?a=b&timeout=1m30s"),
            Some(Duration::from_secs(90))
        );
        for nothing in [
            "/admit",
            "/admit?timeout=",
            "/admit?timeout=-5s",
            "/admit?t=5s",
        ] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn answer_comes_before_the_api_servers_timeout() {
        for seconds in 1..=30 {
            let timeout = Duration::from_secs(seconds);
            assert!(patience(timeout) + Duration::from_millis(200) <= timeout);
        }
    }
}
