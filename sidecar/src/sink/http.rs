//! OTLP by HTTP, in protobuf or JSON.

use std::io::{self, Read};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    response::IntoResponse,
    routing::{MethodRouter, post},
};
use flate2::read::MultiGzDecoder;
use http::{
    HeaderMap, StatusCode, Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName},
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use prost::Message;
use serde::de::DeserializeOwned;
use tokio::{net::TcpListener, task::JoinSet};

use super::{Hand, MOST_BODY, Received};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// Why a request is refused.
type Refusal = (StatusCode, String);

pub(super) async fn serve(listener: TcpListener, hand: Hand) {
    let service = TowerToHyperService::new(router(hand));
    // Connections end with the server, which those of `axum::serve` do not.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let connection = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service.clone());
                    // One that breaks is its sender's to report.
                    connections.spawn(async { connection.await.unwrap_or_default() });
                }
                Err(error) => tracing::warn!(%error, "a connection was not accepted"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn router(hand: Hand) -> Router {
    Router::new()
        .route("/v1/metrics", taken(Received::Metrics))
        .route("/v1/traces", taken(Received::Traces))
        .route("/v1/logs", taken(Received::Logs))
        .method_not_allowed_fallback((StatusCode::METHOD_NOT_ALLOWED, "POST it"))
        .fallback(nowhere)
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .with_state(hand)
}

async fn nowhere(uri: Uri) -> Refusal {
    let path = uri.path();
    let why = format!("{path} is none of /v1/metrics, /v1/traces and /v1/logs");
    (StatusCode::NOT_FOUND, why)
}

/// Takes exports of one kind.
fn taken<T>(received: fn(T) -> Received) -> MethodRouter<Hand>
where
    T: Message + Default + DeserializeOwned + 'static,
{
    post(
        async move |State(hand): State<Hand>, headers: HeaderMap, body: Result<_, _>| {
            let json = is_json(&headers);
            let body = unpack(body.map_err(unread)?, &headers)?;
            let ended_unseen = |_| {
                let why = "the sink is stopping".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, why)
            };
            let export = received(decode(&body, json)?);
            hand.send(export).await.map_err(ended_unseen)?;
            // An empty response message, in either encoding.
            let (kind, empty) = if json { (JSON, "{}") } else { (PROTOBUF, "") };
            Ok::<_, Refusal>(([(CONTENT_TYPE, kind)], empty).into_response())
        },
    )
}

fn unread(why: BytesRejection) -> Refusal {
    match why.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        status => (status, why.body_text()),
    }
}

fn too_large() -> Refusal {
    let why = format!("more than {MOST_BODY} bytes");
    (StatusCode::PAYLOAD_TOO_LARGE, why)
}

/// Not by `tower_http` (0.7.1), which unpacks the first member of a gzip body only (tower-http#737): a request that has more
/// would lose the rest, and succeed.
fn unpack(body: Bytes, headers: &HeaderMap) -> Result<Bytes, Refusal> {
    let limited = |reader: &mut dyn Read| -> io::Result<Vec<u8>> {
        let mut unpacked = Vec::new();
        reader
            .take(MOST_BODY as u64 + 1)
            .read_to_end(&mut unpacked)?;
        Ok(unpacked)
    };
    let unpacked = match header(headers, CONTENT_ENCODING) {
        None | Some("identity") => return Ok(body),
        Some("gzip") => limited(&mut MultiGzDecoder::new(body.as_ref())),
        Some("zstd") => zstd::stream::read::Decoder::new(body.as_ref())
            .and_then(|mut decoder| limited(&mut decoder)),
        Some(other) => {
            let why = format!("{other} is neither gzip nor zstd");
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
    };
    let unpacked = unpacked.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    if unpacked.len() > MOST_BODY {
        return Err(too_large());
    }
    Ok(unpacked.into())
}

fn decode<T: Message + Default + DeserializeOwned>(body: &[u8], json: bool) -> Result<T, Refusal> {
    let decoded = if json {
        serde_json::from_slice(body).map_err(|error| error.to_string())
    } else {
        T::decode(body).map_err(|error| error.to_string())
    };
    decoded.map_err(|why| (StatusCode::BAD_REQUEST, why))
}

fn is_json(headers: &HeaderMap) -> bool {
    header(headers, CONTENT_TYPE).is_some_and(|kind| kind.starts_with(JSON))
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
