//! What flowcar sends: how soon after a close, and how many bytes.

use std::{io, thread, time::Duration};

use flowcar::sink::Received;
use flowcar_lab::sidecar::Sidecar;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value,
};
use prost::Message as _;

use crate::{
    books,
    figures::{CloseDelay, Export},
    measure::Measure,
    statistics::spread,
    worker::{End, Workload, monotonic},
};

/// How long a span may take to the receiver.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// Milliseconds between two connections, at most: longer than flowcar waits for more to send, so that its phase is another each time.
const APART_MS: u64 = 1_500;

/// So many spans that none is left out.
const ALL_SPANS: [(&str, &str); 3] = [
    ("FLOWCAR_SPANS_PER_SECOND", "1000000"),
    ("FLOWCAR_SPAN_QUEUE", "1000000"),
    ("FLOWCAR_SPAN_QUEUE_BYTES", "1000000000"),
];

/// From close() until the receiver has the span, of so many connections of the client's end, with default settings.
pub(crate) fn close_delay(measure: &Measure<'_>, connections: usize) -> io::Result<CloseDelay> {
    let mut ground = measure.ground(End::Client)?;
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", measure.receiver.endpoint())];
    let sidecar = Sidecar::follow(ground.followed.path(), settings)?;
    let mut delays = Vec::new();
    for _ in 0..connections {
        measure.interrupt.check()?;
        let closed = ground.worker.close()?;
        let is_its = |export| match export {
            Received::Traces(spans) => has_port(&spans, closed.port),
            _ => false,
        };
        if !measure.receiver.until(ARRIVES_WITHIN, is_its)? {
            return Err(io::Error::other("no span came for a closed connection"));
        }
        delays.push((monotonic()? - closed.at).as_secs_f64() * 1e3);
        thread::sleep(Duration::from_millis(fastrand::u64(..APART_MS)));
    }
    drop(sidecar);
    Ok(CloseDelay {
        connections,
        ms: spread(delays),
    })
}

/// Bytes of a span and of a report, before compression. For this long connections are made.
pub(crate) fn bytes(measure: &Measure<'_>, duration: Duration) -> io::Result<Export> {
    let mut ground = measure.ground(End::Client)?;
    while measure.receiver.next(Duration::ZERO)?.is_some() {}
    let mut settings = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", measure.receiver.endpoint())];
    settings.extend(ALL_SPANS.map(|(name, value)| (name, value.to_owned())));
    let sidecar = Sidecar::follow(ground.followed.path(), settings)?;
    ground.worker.run(Workload::ConnectPerRequest, duration)?;
    let books = books::of(&sidecar.stop()?)?;
    let (mut spans, mut span_bytes, mut report_bytes) = (0, 0, 0);
    while let Some(export) = measure.receiver.next(Duration::ZERO)? {
        match export {
            Received::Traces(traces) => {
                span_bytes += traces.encoded_len() as u64;
                spans += count(&traces);
            }
            Received::Metrics(report) => {
                report_bytes = report_bytes.max(report.encoded_len() as u64);
            }
            Received::Logs(_) => {}
        }
    }
    Ok(Export {
        flows: books.opened,
        spans,
        bytes_per_span: span_bytes as f64 / spans as f64,
        report_bytes,
    })
}

fn count(traces: &ExportTraceServiceRequest) -> u64 {
    let scopes = traces.resource_spans.iter().flat_map(|of| &of.scope_spans);
    scopes.map(|scope| scope.spans.len() as u64).sum()
}

/// Whether one of the spans is of the end with this port.
fn has_port(traces: &ExportTraceServiceRequest, port: u16) -> bool {
    let scopes = traces.resource_spans.iter().flat_map(|of| &of.scope_spans);
    let mut attributes = scopes
        .flat_map(|scope| &scope.spans)
        .flat_map(|span| &span.attributes);
    attributes.any(|attribute| {
        let value = attribute.value.as_ref().and_then(|any| any.value.as_ref());
        attribute.key == "network.local.port" && value == Some(&Value::IntValue(port.into()))
    })
}
