//! Metrics and health, over plain HTTP.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{Request, State},
    middleware,
    response::IntoResponse,
    routing::get,
};
use http::{StatusCode, header};
use tokio::{net::TcpListener, sync::watch};

use super::{
    connections::{Connections, Limits},
    http::App,
    listener::{Caller, Listener},
};

/// Few clients connect: the kubelet and the scraper of the metrics.
const LIMITS: Limits = Limits {
    total: 64,
    per_source: 16,
    memory: 1 << 20,
};

/// How long a new connection may take to become one, which is nothing without TLS.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// Serves `/metrics`, `/healthz` and `/readyz` until the process ends.
pub async fn serve_admin(socket: TcpListener, app: Arc<App>) {
    // Never stopped: health is asked for until the end.
    let (_running, stop) = watch::channel(false);
    let listener = Listener {
        socket,
        connections: Connections::new(LIMITS),
        metrics: app.metrics.clone(),
        handshake: HANDSHAKE,
        stop,
    };
    listener
        .serve(|stream| async move { Some((stream, false)) }, router(app))
        .await;
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route_layer(middleware::map_request(proven))
        .fallback((
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz\n",
        ))
        .with_state(app)
}

/// Who asks for what there is has proven what it connected for.
async fn proven(Extension(caller): Extension<Arc<Caller>>, request: Request) -> Request {
    caller.permit.proven();
    request
}

async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, (StatusCode, &'static str)> {
    let unready = if *app.draining.borrow() {
        "stopping\n"
    } else if !app.certificate.is_loaded() {
        "no certificate yet\n"
    } else if !app.cluster.is_synced() {
        "the namespaces are not known yet\n"
    } else {
        return Ok("ok\n");
    };
    Err((StatusCode::SERVICE_UNAVAILABLE, unready))
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.render())
}
