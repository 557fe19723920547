//! One small request, to check whether a receiver takes it.

use std::time::Duration;

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    logs::v1::ResourceLogs,
    metrics::v1::ResourceMetrics,
    trace::v1::ResourceSpans,
};
use prost::Message;

use super::{
    connect::Connector,
    error::{Accepted, ExportError},
    names::SCHEMA_URL,
    remote,
    resource::Resource,
    transport::ExportRequest,
};
use crate::{
    config::{Signal, Target},
    exporter_sockets::ExporterSockets,
};

/// The time for the request where the target has no limit: somebody waits for the verdict.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends a request that names the resource and has no point, no span and no log record, in the way of exports: once, with the target's headers,
/// certificates and timeout (10 s where that is none).
///
/// # Errors
/// The error with which an export would fail.
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
        Signal::Logs => {
            let records = ResourceLogs {
                resource,
                schema_url,
                ..Default::default()
            };
            let resource_logs = vec![records];
            send(signal, target, ExportLogsServiceRequest { resource_logs }).await
        }
    }
}

async fn send(
    signal: Signal,
    target: &Target,
    request: impl Message,
) -> Result<Accepted, ExportError> {
    let request = ExportRequest::encoded(request.encode_to_vec().into());
    let target = Target {
        timeout: target.timeout.or(Some(LIMIT)),
        ..target.clone()
    };
    let bytes = request.encoded.len();
    let connector = Connector::new(signal, target, ExporterSockets::default());
    let outcome = remote::client(signal, connector).send(request).await;
    outcome.map_err(|error| error.alone(bytes))
}
