//! Metrics and health, over plain HTTP.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

use super::http::{App, Reply, reply, text};

/// Serves `/metrics`, `/healthz` and `/readyz` until the process ends.
pub async fn serve_admin(listener: TcpListener, app: Arc<App>) {
    let builder = auto::Builder::new(TokioExecutor::new());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (app, builder) = (app.clone(), builder.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let reply = admin(request.uri().path(), &app);
                async move { Ok::<_, Infallible>(reply) }
            });
            // A prober that hangs up is no news.
            drop(
                builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
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
            reply(StatusCode::OK, kind, app.metrics.render())
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
