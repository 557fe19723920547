//! One log record for each closed connection and each failed attempt: an event with the attributes, the ids and the end of its span. Pure.

use std::{
    borrow::Cow,
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry::trace::Status;
use opentelemetry_proto::{
    tonic::{
        common::v1::InstrumentationScope,
        logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    },
    transform::common::tonic::Attributes,
};
use opentelemetry_sdk::trace::SpanData;

use super::{
    names::{FLOW_CLOSED, SCHEMA_URL},
    resource::Resource,
};

/// The log records of flows, each given by its span and when flowcar noticed its end, under their resource.
pub(super) fn resource_logs<'a>(
    resource: &Resource,
    flows: impl Iterator<Item = (&'a SpanData, SystemTime)>,
) -> ResourceLogs {
    let mut scope = None;
    let log_records = flows.map(|(span, observed)| {
        // One flowcar has one scope.
        scope.get_or_insert_with(|| {
            let none: Option<Cow<'static, str>> = None;
            InstrumentationScope::from((&span.instrumentation_scope, none))
        });
        log_record(span, observed)
    });
    let log_records = log_records.collect();
    ResourceLogs {
        resource: Some(resource.to_proto()),
        scope_logs: vec![ScopeLogs {
            scope,
            log_records,
            schema_url: SCHEMA_URL.to_owned(),
        }],
        schema_url: SCHEMA_URL.to_owned(),
    }
}

/// An event has a name in place of a body.
fn log_record(span: &SpanData, observed: SystemTime) -> LogRecord {
    // Where a span is an error, its log record is one, too: a back end finds the same connections by either.
    let (severity, text) = match span.status {
        Status::Error { .. } => (SeverityNumber::Error, "ERROR"),
        Status::Unset | Status::Ok => (SeverityNumber::Info, "INFO"),
    };
    let context = &span.span_context;
    LogRecord {
        time_unix_nano: unix_ns(span.end_time),
        observed_time_unix_nano: unix_ns(observed),
        severity_number: severity.into(),
        severity_text: text.to_owned(),
        attributes: Attributes::from(span.attributes.clone()).0,
        flags: u32::from(context.trace_flags().to_u8()),
        trace_id: context.trace_id().to_bytes().to_vec(),
        span_id: context.span_id().to_bytes().to_vec(),
        event_name: FLOW_CLOSED.name.to_owned(),
        ..Default::default()
    }
}

fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};

    use super::*;
    use crate::{
        clock::Anchor,
        config::{Config, TraceParent},
        flow::{CloseReason, Failure, Flow, Outcome, example},
        host::Host,
        otlp::spans::{SpanOptions, span},
    };

    /// What a span has and a log record has, too, is the same.
    #[test]
    fn log_record_is_its_span_as_an_event() {
        let options = SpanOptions {
            trace_parent: TraceParent::Always,
            source: "ebpf".to_owned(),
        };
        let observed = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_007);
        for (outcome, severity, code) in [
            (
                Outcome::Closed(CloseReason::LocalFin),
                SeverityNumber::Info,
                StatusCode::Unset,
            ),
            (
                Outcome::Closed(CloseReason::Timeout),
                SeverityNumber::Error,
                StatusCode::Error,
            ),
            (
                Outcome::Failed(Failure::Refused),
                SeverityNumber::Error,
                StatusCode::Error,
            ),
        ] {
            let flow = Flow {
                outcome: Some(outcome),
                ..example::closed(1)
            };
            let data = span(&flow, &Anchor::now(), &options);
            let config = Config::from_vars([]).expect("defaults");
            let resource = Resource::new(&config, &Host::default());
            let logs = resource_logs(&resource, std::iter::once((&data, observed)));
            assert_eq!(logs.resource, Some(resource.to_proto()));
            let [scope] = logs.scope_logs.as_slice() else {
                panic!("one scope: {logs:?}");
            };
            let named = scope.scope.as_ref().map(|scope| scope.name.as_str());
            assert_eq!(named, Some("flowcar"));
            let [record] = scope.log_records.as_slice() else {
                panic!("one log record: {logs:?}");
            };
            let span = Span::from(data);
            assert_eq!(span.status.clone().unwrap_or_default().code(), code);
            assert_eq!(record.severity_number(), severity, "{outcome:?}");
            assert_eq!(record.event_name, "flowcar.tcp.flow.closed");
            assert_eq!(record.body, None);
            assert_eq!(record.attributes, span.attributes);
            assert_eq!(record.time_unix_nano, span.end_time_unix_nano);
            assert_eq!(record.observed_time_unix_nano, 1_700_000_000_000_000_007);
            assert_eq!(
                (&record.trace_id, &record.span_id, record.flags),
                (&span.trace_id, &span.span_id, 1)
            );
        }
    }
}
