//! Spans: over gRPC with flowcar's own client, over HTTP with opentelemetry-otlp's exporter, which encodes, compresses and posts a
//! request. The caller ensures that they fit one request.
//!
//! The exporter reads environment variables for parameters that are not set, so all are set. It reports
//! a failure only as text, so its HTTP client is flowcar's, which keeps the receiver's answer. Over gRPC there is no
//! such hook: it hides `partial_success` and `RetryInfo`.

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
    /// The spans in it.
    pub(super) spans: Vec<SpanData>,
    /// Their resource.
    pub(super) resource: Resource,
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
    /// The resource that it has.
    resource: Resource,
    /// The receiver's answer to the last request.
    answer: Answer,
}

/// The exporter has no value for no limit; no wait is longer than this.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

type Answer = Arc<Mutex<Option<Result<Accepted, ExportError>>>>;

/// The HTTP client that opentelemetry-otlp posts with.
#[derive(Debug)]
struct Listening {
    http: Http,
    answer: Answer,
}

// === impl SpanClient ===

impl SpanClient {
    pub(super) fn new(connector: Connector, resource: &Resource) -> Result<Self, ExportError> {
        Ok(match connector.target().protocol {
            Protocol::Grpc => Self::Grpc(Box::new(Grpc::new(Signal::Traces, connector))),
            Protocol::HttpProtobuf => Self::Http(Box::new(HttpSpans::new(connector, resource)?)),
        })
    }

    pub(super) async fn export(&mut self, batch: Batch) -> Result<Accepted, ExportError> {
        match self {
            Self::Grpc(grpc) => grpc.export(batch.encoded).await,
            Self::Http(http) => http.export(batch.spans, batch.resource).await,
        }
    }
}

// === impl HttpSpans ===

impl HttpSpans {
    fn new(connector: Connector, resource: &Resource) -> Result<Self, ExportError> {
        let answer = Answer::default();
        let target = connector.target().clone();
        let mut builder = SpanExporter::builder()
            .with_http()
            .with_http_client(Listening {
                http: Http::new(Signal::Traces, connector),
                answer: Arc::clone(&answer),
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
        exporter.set_resource(&resource.to_sdk());
        Ok(Self {
            target,
            exporter,
            resource: resource.clone(),
            answer,
        })
    }

    async fn export(
        &mut self,
        spans: Vec<SpanData>,
        resource: Resource,
    ) -> Result<Accepted, ExportError> {
        if self.resource != resource {
            self.exporter.set_resource(&resource.to_sdk());
            self.resource = resource;
        }
        let export = self.exporter.export(spans);
        let answer = in_time(&self.target, export).await;
        let accepted = self
            .answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let cause = match (answer, accepted) {
            (Err(cause), _) => cause,
            (Ok(Err(OTelSdkError::Timeout(limit))), _) => Cause::Timeout(limit),
            (Ok(_), Some(accepted)) => return accepted,
            (Ok(Ok(())), None) => return Ok(Accepted::default()),
            // It never called flowcar's client.
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
        // The exporter parses OTEL_EXPORTER_OTLP_HEADERS by other rules than flowcar.
        let headers = std::mem::take(request.headers_mut());
        for name in [CONTENT_TYPE, CONTENT_ENCODING] {
            if let Some(value) = headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        let answer = self.http.send(request).await;
        let accepted = match &answer {
            Ok(answer) => self.http.accepted(answer),
            Err(error) => Err(error.clone()),
        };
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepted);
        Ok(answer?)
    }
}
