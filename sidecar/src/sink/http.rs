//! OTLP by HTTP, in protobuf or JSON.

use std::{
    convert::Infallible,
    io::{self, Read},
};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use prost::Message;
use serde::de::DeserializeOwned;
use tokio::{net::TcpListener, task::JoinSet};

use super::{Hand, MOST_BODY, Received};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// Why a request is refused.
type Refusal = (StatusCode, String);

pub(super) async fn serve(listener: TcpListener, hand: Hand) {
    // Connections end with the server.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let hand = hand.clone();
                    let answer = service_fn(move |request| answer(request, hand.clone()));
                    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                    // One that breaks is its sender's to report.
                    connections.spawn(async { connection.await.unwrap_or_default() });
                }
                Err(error) => tracing::warn!(%error, "a connection was not accepted"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    hand: Hand,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let kind = HeaderValue::from_static(if is_json(request.headers()) {
        JSON
    } else {
        PROTOBUF
    });
    let (status, body) = match take(request, hand).await {
        // An empty response message, in either encoding.
        Ok(()) if kind == JSON => (StatusCode::OK, "{}".to_owned()),
        Ok(()) => (StatusCode::OK, String::new()),
        Err((status, why)) => {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            return Ok(response(status, text, why));
        }
    };
    Ok(response(status, kind, body))
}

fn response(status: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn take(request: Request<Incoming>, hand: Hand) -> Result<(), Refusal> {
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "POST it".to_owned()));
    }
    let body = Limited::new(body, MOST_BODY).collect().await;
    let body = body.map_err(|error| (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))?;
    let body = unpack(body.to_bytes(), &head.headers)?;
    let json = is_json(&head.headers);
    let export = match head.uri.path() {
        "/v1/metrics" => Received::Metrics(decode(&body, json)?),
        "/v1/traces" => Received::Traces(decode(&body, json)?),
        "/v1/logs" => Received::Logs(decode(&body, json)?),
        path => {
            let why = format!("{path} is none of /v1/metrics, /v1/traces and /v1/logs");
            return Err((StatusCode::NOT_FOUND, why));
        }
    };
    let ended_unseen = |_| {
        let why = "the sink is stopping".to_owned();
        (StatusCode::SERVICE_UNAVAILABLE, why)
    };
    hand.send(export).await.map_err(ended_unseen)
}

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
        let why = format!("more than {MOST_BODY} bytes");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
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
