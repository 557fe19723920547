//! Metrics and health, over plain HTTP.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::body::Answer;
use super::connections::{Connections, InProgress, Limits};
use super::http::{App, Reply, reply, text};
use super::listener::{Caller, Listener};

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
    let service = move |request: Request<Incoming>, _: Arc<Caller>, mut progress: InProgress| {
        let reply = admin(request.uri().path(), &app);
        if reply.status() != StatusCode::NOT_FOUND {
            progress.proves();
        }
        async move { reply }
    };
    listener
        .serve(|stream| async move { Some((stream, false)) }, service)
        .await;
}

fn admin(path: &str, app: &App) -> Reply {
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match unready(app) {
            None => text(StatusCode::OK, "ok\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        "/metrics" => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            reply(
                StatusCode::OK,
                kind,
                Answer::new(app.metrics.render(), None),
            )
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz\n",
        ),
    }
}

fn unready(app: &App) -> Option<&'static str> {
    if *app.draining.borrow() {
        Some("stopping\n")
    } else if !app.certificate.is_loaded() {
        Some("no certificate yet\n")
    } else if !app.cluster.is_synced() {
        Some("the namespaces are not known yet\n")
    } else {
        None
    }
}
