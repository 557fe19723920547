//! One small request, to see whether a receiver takes it.

use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    metrics::v1::ResourceMetrics,
    trace::v1::ResourceSpans,
};
use prost::Message;

use super::{
    connect::Connector,
    error::{Accepted, ExportError},
    grpc::Grpc,
    http::Http,
    names::SCHEMA_URL,
    own::OwnSockets,
    resource::Resource,
};
use crate::config::{Protocol, Signal, Target};

/// Sends a request that names the resource and has no point and no span, as exports go: once, with the target's headers,
/// certificates and timeout.
///
/// # Errors
/// What an export would fail with.
pub async fn try_receiver(
    signal: Signal,
    target: &Target,
    resource: &Resource,
) -> Result<Accepted, ExportError> {
    let resource = Some(resource.to_proto());
    let schema_url = SCHEMA_URL.to_owned();
    match signal {
        Signal::Metrics => {
            let metrics = ResourceMetrics {
                resource,
                schema_url,
                ..Default::default()
            };
            let resource_metrics = vec![metrics];
            send(
                signal,
                target,
                ExportMetricsServiceRequest { resource_metrics },
            )
            .await
        }
        Signal::Traces => {
            let spans = ResourceSpans {
                resource,
                schema_url,
                ..Default::default()
            };
            let resource_spans = vec![spans];
            send(signal, target, ExportTraceServiceRequest { resource_spans }).await
        }
    }
}

async fn send(
    signal: Signal,
    target: &Target,
    request: impl Message,
) -> Result<Accepted, ExportError> {
    let request = request.encode_to_vec().into();
    let connector = Connector::new(target.clone(), OwnSockets::default());
    match target.protocol {
        Protocol::Grpc => Grpc::new(signal, connector).export(request).await,
        Protocol::HttpProtobuf => Http::new(signal, connector).export(request).await,
    }
}
