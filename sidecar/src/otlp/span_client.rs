//! Spans: by gRPC over our own client, by HTTP by opentelemetry-otlp's exporter, which turns them into a request, packs
//! and posts it. Whoever sends has seen to it that they are not too many for one request.
//!
//! The exporter reads environment variables for what it is not told, so it is told everything; and it says
//! of a failure no more than a text, so its HTTP client is ours, which keeps what the receiver truly said. Over gRPC
//! there is no such place: it hides `partial_success` and `RetryInfo`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    Request, Response,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    Compression as OtlpCompression, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::{
    error::OTelSdkError,
    trace::{SpanData, SpanExporter as _},
};

use super::{
    connect::{Connector, in_time},
    error::{Accepted, Cause, ExportError},
    grpc::Grpc,
    http::Http,
    resource::Resource,
};
use crate::config::{Compression, Protocol, Signal, Target};

/// Spans, and the request that they make.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// The request message.
    pub(super) encoded: Bytes,
    /// What is in it.
    pub(super) spans: Vec<SpanData>,
}

/// Sends spans.
#[derive(Debug)]
pub(super) enum SpanClient {
    Grpc(Box<Grpc>),
    Http(Box<HttpSpans>),
}

/// Sends spans by HTTP.
#[derive(Debug)]
pub(super) struct HttpSpans {
    target: Target,
    exporter: SpanExporter,
    /// What the receiver said to the last request.
    said: Said,
}

/// The exporter has no word for no limit; nobody waits longer.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

type Said = Arc<Mutex<Option<Result<Accepted, ExportError>>>>;

/// The HTTP client that opentelemetry-otlp posts with.
#[derive(Debug)]
struct Listening {
    http: Http,
    said: Said,
}

// === impl SpanClient ===

impl SpanClient {
    pub(super) fn new(connector: Connector, resource: &Resource) -> Result<Self, ExportError> {
        Ok(match connector.target().protocol {
            Protocol::Grpc => Self::Grpc(Box::new(Grpc::new(Signal::Traces, connector))),
            Protocol::HttpProtobuf => {
                Self::Http(Box::new(HttpSpans::new(connector, &resource.to_sdk())?))
            }
        })
    }

    pub(super) async fn export(&mut self, batch: Batch) -> Result<Accepted, ExportError> {
        match self {
            Self::Grpc(grpc) => grpc.export(batch.encoded).await,
            Self::Http(http) => http.export(batch.spans).await,
        }
    }
}

// === impl HttpSpans ===

impl HttpSpans {
    fn new(
        connector: Connector,
        resource: &opentelemetry_sdk::Resource,
    ) -> Result<Self, ExportError> {
        let said = Said::default();
        let target = connector.target().clone();
        let mut builder = SpanExporter::builder()
            .with_http()
            .with_http_client(Listening {
                http: Http::new(Signal::Traces, connector),
                said: Arc::clone(&said),
            })
            .with_endpoint(target.endpoint.to_string())
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_timeout(target.timeout.unwrap_or(NO_LIMIT))
            .with_retry_policy(RetryPolicy::disabled());
        if let Some(compression) = target.compression {
            builder = builder.with_compression(packing(compression));
        }
        let mut exporter = builder.build().map_err(|error| {
            ExportError::new(Signal::Traces, &target, Cause::Setup(error.to_string()))
        })?;
        exporter.set_resource(resource);
        Ok(Self {
            target,
            exporter,
            said,
        })
    }

    async fn export(&self, spans: Vec<SpanData>) -> Result<Accepted, ExportError> {
        let export = self.exporter.export(spans);
        let answer = in_time(&self.target, export).await;
        let said = self
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let cause = match (answer, said) {
            (Err(cause), _) => cause,
            (Ok(Err(OTelSdkError::Timeout(limit))), _) => Cause::Timeout(limit),
            (Ok(_), Some(said)) => return said,
            (Ok(Ok(())), None) => return Ok(Accepted::default()),
            // It never asked our client.
            (Ok(Err(error)), None) => Cause::Setup(error.to_string()),
        };
        Err(ExportError::new(Signal::Traces, &self.target, cause))
    }
}

const fn packing(compression: Compression) -> OtlpCompression {
    match compression {
        Compression::Gzip => OtlpCompression::Gzip,
        Compression::Zstd => OtlpCompression::Zstd,
    }
}

#[async_trait]
impl HttpClient for Listening {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter reads OTEL_EXPORTER_OTLP_HEADERS by other rules than ours.
        let headers = std::mem::take(request.headers_mut());
        for name in [CONTENT_TYPE, CONTENT_ENCODING] {
            if let Some(value) = headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        let answer = self.http.send(request).await;
        let said = match &answer {
            Ok(answer) => self.http.accepted(answer),
            Err(error) => Err(error.clone()),
        };
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
        Ok(answer?)
    }
}
