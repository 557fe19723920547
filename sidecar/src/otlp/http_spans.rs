//! Spans over HTTP, with opentelemetry-otlp's exporter, which encodes, compresses and posts a request.
//!
//! The exporter reads environment variables for parameters that are not set, so all are set. It reports
//! a failure only as text, so its HTTP client is flowcar's, which keeps the receiver's answer. Over gRPC there is no
//! such hook, as it hides `partial_success` and `RetryInfo`: there flowcar's own client sends spans, too.

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
use opentelemetry_sdk::{error::OTelSdkError, trace::SpanExporter as _};

use super::{
    connect::{Connector, in_time},
    error::{Accepted, Cause, ExportError},
    http::Http,
    no_answer::late,
    resource::Resource,
    transport::{ExportRequest, Transport},
};
use crate::config::{Compression, Signal, Target};

/// Sends spans by HTTP.
#[derive(Debug)]
pub(super) struct HttpSpans {
    target: Target,
    connector: Connector,
    exporter: SpanExporter,
    /// The resource that it has.
    resource: Option<Resource>,
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

// === impl HttpSpans ===

impl HttpSpans {
    pub(super) fn new(connector: Connector) -> Result<Self, ExportError> {
        let answer = Answer::default();
        let target = connector.target().clone();
        let mut builder = SpanExporter::builder()
            .with_http()
            .with_http_client(Listening {
                http: Http::new(Signal::Traces, connector.clone()),
                answer: Arc::clone(&answer),
            })
            .with_endpoint(target.endpoint.to_string())
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_timeout(target.timeout.unwrap_or(NO_LIMIT))
            .with_retry_policy(RetryPolicy::disabled());
        if let Some(compression) = target.compression {
            builder = builder.with_compression(packing(compression));
        }
        let exporter = builder.build().map_err(|error| {
            ExportError::new(Signal::Traces, &target, Cause::Setup(error.to_string()))
        })?;
        Ok(Self {
            target,
            connector,
            exporter,
            resource: None,
            answer,
        })
    }
}

#[async_trait]
impl Transport for HttpSpans {
    async fn send(&mut self, request: ExportRequest) -> Result<Accepted, ExportError> {
        if let Some(resource) = &request.resource
            && self.resource != request.resource
        {
            self.exporter.set_resource(&resource.to_sdk());
            self.resource = request.resource;
        }
        let export = self.exporter.export(request.spans);
        let answer = in_time(&self.target, export).await;
        let accepted = self
            .answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let cause = match (answer, accepted) {
            (Err(cause), _) => late(cause, &self.connector),
            (Ok(Err(OTelSdkError::Timeout(limit))), _) => {
                late(Cause::Timeout(limit), &self.connector)
            }
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
        let answer = self.http.post(request).await;
        let accepted = match &answer {
            Ok(answer) => self.http.accepted(answer),
            Err(error) => Err(error.clone()),
        };
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepted);
        Ok(answer?)
    }
}
