//! Spans by opentelemetry-otlp's exporter, over our own connections.
//!
//! The exporter reads environment variables for what it is not told, so it is told everything; and it says
//! of a failure no more than a text, so over HTTP its client is ours, which keeps what the receiver truly said.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    Compression as OtlpCompression, ExporterBuildError, RetryPolicy, SpanExporter,
    WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::{
    error::OTelSdkError,
    trace::{SpanData, SpanExporter as _},
};
use tonic::Code;

use super::{
    error::{Accepted, Cause, ExportError},
    grpc,
    http::{Http, accepted},
    resource::Resource,
};
use crate::config::{Compression, Protocol, Signal, Target};

/// Sends spans.
#[derive(Debug)]
pub(super) struct SpanClient {
    target: Target,
    exporter: SpanExporter,
    /// What the receiver said to the last request; over HTTP only.
    said: Said,
}

type Said = Arc<Mutex<Option<Result<Accepted, ExportError>>>>;

/// The HTTP client that opentelemetry-otlp posts with.
#[derive(Debug)]
struct Listening {
    http: Http,
    said: Said,
}

impl SpanClient {
    pub(super) fn new(target: Target, resource: &Resource) -> Result<Self, ExportError> {
        let said = Said::default();
        let mut exporter = match target.protocol {
            Protocol::Grpc => by_grpc(&target)?,
            Protocol::HttpProtobuf => by_http(&target, Arc::clone(&said))?,
        };
        exporter.set_resource(&resource.to_sdk());
        Ok(Self {
            target,
            exporter,
            said,
        })
    }

    pub(super) async fn export(&self, spans: Vec<SpanData>) -> Result<Accepted, ExportError> {
        let export = self.exporter.export(spans);
        let answer = tokio::time::timeout(self.target.timeout, export).await;
        let said = self
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let cause = match (answer, said) {
            (Err(_), _) | (Ok(Err(OTelSdkError::Timeout(_))), _) => {
                Cause::Timeout(self.target.timeout)
            }
            (Ok(_), Some(said)) => return said,
            (Ok(Ok(())), None) => return Ok(Accepted::default()),
            (Ok(Err(error)), None) => cause(&error.to_string()),
        };
        Err(ExportError::new(Signal::Traces, &self.target, cause))
    }
}

fn by_grpc(target: &Target) -> Result<SpanExporter, ExportError> {
    let mut builder = SpanExporter::builder()
        .with_tonic()
        .with_channel(grpc::channel(target, Signal::Traces)?)
        .with_metadata(grpc::metadata(target))
        .with_timeout(target.timeout)
        .with_retry_policy(RetryPolicy::disabled());
    if let Some(compression) = target.compression {
        builder = builder.with_compression(packing(compression));
    }
    built(target, builder.build())
}

fn by_http(target: &Target, said: Said) -> Result<SpanExporter, ExportError> {
    let http = Http::new(Signal::Traces, target.clone())?;
    let mut builder = SpanExporter::builder()
        .with_http()
        .with_http_client(Listening { http, said })
        .with_endpoint(target.endpoint.to_string())
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_timeout(target.timeout)
        .with_retry_policy(RetryPolicy::disabled());
    if let Some(compression) = target.compression {
        builder = builder.with_compression(packing(compression));
    }
    built(target, builder.build())
}

fn built(
    target: &Target,
    exporter: Result<SpanExporter, ExporterBuildError>,
) -> Result<SpanExporter, ExportError> {
    let setup = |error: ExporterBuildError| Cause::Setup(error.to_string());
    exporter.map_err(|error| ExportError::new(Signal::Traces, target, setup(error)))
}

const fn packing(compression: Compression) -> OtlpCompression {
    match compression {
        Compression::Gzip => OtlpCompression::Gzip,
        Compression::Zstd => OtlpCompression::Zstd,
    }
}

#[async_trait]
impl HttpClient for Listening {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.http.send(request).await;
        let partial = |answer: ExportTraceServiceResponse| {
            let partial = answer.partial_success.unwrap_or_default();
            (partial.rejected_spans, partial.error_message)
        };
        let said = match &answer {
            Ok(answer) => Ok(accepted(answer.body(), partial)),
            Err(error) => Err(error.clone()),
        };
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
        Ok(answer?)
    }
}

/// Over gRPC the exporter's text is all there is: it ends in the name of the code, and then, where there was
/// no answer, in what broke. A code that cannot be told is taken for one that may work later: the queue is bounded.
fn cause(text: &str) -> Cause {
    const CODES: [Code; 8] = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::FailedPrecondition,
        Code::Unimplemented,
        Code::Internal,
        Code::Unauthenticated,
    ];
    let named = |code: &Code| text.ends_with(&format!("gRPC code: {code:?}"));
    match CODES.into_iter().find(named) {
        Some(code) => Cause::Grpc {
            code,
            message: String::new(),
            retry_info: false,
        },
        None => Cause::Unreachable(text.rsplit(": ").next().unwrap_or(text).to_owned()),
    }
}
