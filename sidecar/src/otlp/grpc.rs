//! OTLP by gRPC.

use http::header::{HeaderMap, HeaderValue, USER_AGENT};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
};
use tonic::{
    Request, Status,
    codec::CompressionEncoding,
    metadata::MetadataMap,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use tonic_types::StatusExt;

use super::{
    USER_AGENT_NAME,
    error::{Accepted, Cause, ExportError, root},
};
use crate::config::{Compression, Signal, Target};

/// Sends metrics.
#[derive(Debug)]
pub(super) struct Grpc {
    target: Target,
    metadata: MetadataMap,
    client: MetricsServiceClient<Channel>,
}

impl Grpc {
    /// Connects when first used, and again, by a fresh look-up of the name, when the connection has broken.
    pub(super) fn new(target: Target) -> Result<Self, ExportError> {
        let channel = channel(&target, Signal::Metrics)?;
        let mut client = MetricsServiceClient::new(channel);
        if let Some(encoding) = target.compression.map(encoding) {
            client = client.send_compressed(encoding).accept_compressed(encoding);
        }
        Ok(Self {
            metadata: metadata(&target),
            target,
            client,
        })
    }

    pub(super) async fn export(
        &mut self,
        request: ExportMetricsServiceRequest,
    ) -> Result<Accepted, ExportError> {
        let mut request = Request::new(request);
        *request.metadata_mut() = self.metadata.clone();
        // The channel's own timeout does not hold while it connects.
        let answer = tokio::time::timeout(self.target.timeout, self.client.export(request)).await;
        let cause = match answer {
            Ok(Ok(answer)) => {
                let partial = answer.into_inner().partial_success.unwrap_or_default();
                return Ok(Accepted {
                    rejected: partial.rejected_data_points.try_into().unwrap_or(0),
                    message: partial.error_message,
                });
            }
            Ok(Err(status)) => cause(&status),
            Err(_) => (Cause::Timeout(self.target.timeout), None),
        };
        let (cause, retry_after) = cause;
        Err(ExportError::new(Signal::Metrics, &self.target, cause).after(retry_after))
    }
}

/// A channel that connects when first used.
pub(super) fn channel(target: &Target, signal: Signal) -> Result<Channel, ExportError> {
    let endpoint = Endpoint::from(target.endpoint.clone())
        .timeout(target.timeout)
        .connect_timeout(target.timeout);
    let endpoint = if target.endpoint.scheme() == Some(&http::uri::Scheme::HTTPS) {
        endpoint
            .tls_config(ClientTlsConfig::new().with_native_roots())
            .map_err(|error| ExportError::new(signal, target, Cause::Setup(root(&error))))?
    } else {
        endpoint
    };
    Ok(endpoint.connect_lazy())
}

/// The target's headers.
pub(super) fn metadata(target: &Target) -> MetadataMap {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_NAME));
    for (name, value) in target.headers.iter() {
        headers.insert(name.clone(), value.clone());
    }
    MetadataMap::from_headers(headers)
}

const fn encoding(compression: Compression) -> CompressionEncoding {
    match compression {
        Compression::Gzip => CompressionEncoding::Gzip,
        Compression::Zstd => CompressionEncoding::Zstd,
    }
}

/// A status that has a source was made on this side: there was no answer.
fn cause(status: &Status) -> (Cause, Option<std::time::Duration>) {
    let source = std::error::Error::source(status);
    if let Some(source) = source {
        return (Cause::Unreachable(root(source)), None);
    }
    let retry_info = status.get_details_retry_info();
    let cause = Cause::Grpc {
        code: status.code(),
        message: status.message().to_owned(),
        retry_info: retry_info.is_some(),
    };
    (cause, retry_info.and_then(|info| info.retry_delay))
}
