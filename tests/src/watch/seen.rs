//! What a flowcar sent, read as its receivers read it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use flowcar::sink::Received;
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::{metric::Data, number_data_point},
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message as _;

use crate::traffic::ConnectionReport;

/// A point of a metric: its attributes, with `container.id` of its resource, and its value.
pub type Point = (BTreeMap<String, String>, f64);

/// What it sent.
#[derive(Debug, Default)]
pub struct Seen {
    /// A flow for each span of a closed one; those of flowcar's own exports are left out.
    pub flows: Vec<Flow>,
    /// The log records, without those of flowcar's own exports.
    pub log_records: Vec<FlowRecord>,
    /// The latest report: each metric's points by their attributes; of a histogram, how many values there were.
    pub metrics: BTreeMap<String, Vec<Point>>,
    /// When flowcar began to count, and when the latest report was made, both as it reports them: nanoseconds since 1970.
    pub counted_unix_ns: (u64, u64),
    /// Reports so far.
    pub reports: u64,
    /// Bytes of the latest report, before compression.
    pub report_bytes: usize,
    /// What it logged.
    pub log: Vec<String>,
    /// `flowcar.source`
    pub source: String,
    receiver_port: u16,
    receiver_in_the_pod: bool,
}

/// One log record.
#[derive(Clone, Debug)]
pub struct FlowRecord {
    /// What it names.
    pub span_id: Vec<u8>,
    /// The name of the event.
    pub event_name: String,
    /// `INFO` or `ERROR`
    pub severity: String,
    /// Its attributes as texts, and `container.id` of its resource.
    pub attributes: BTreeMap<String, String>,
    /// When the flow ended, and when flowcar noticed, nanoseconds since 1970.
    pub times_unix_ns: (u64, u64),
}

/// One span.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its attributes as texts, and `container.id` of its resource.
    pub attributes: BTreeMap<String, String>,
    /// The trace that it belongs to.
    pub trace_id: Vec<u8>,
    /// Its own id.
    pub span_id: Vec<u8>,
    /// When it ended, nanoseconds since 1970.
    pub end_unix_ns: u64,
    /// `network.local.address` and `.port`; unspecified where they are absent: the attempt failed before the kernel chose an address.
    pub local: SocketAddr,
    /// `network.peer.address` and `.port`
    pub peer: SocketAddr,
    /// `flowcar.tcp.bytes.sent`, or of an interim span that of its interval.
    pub sent: u64,
    /// `flowcar.tcp.bytes.received`, or of an interim span that of its interval.
    pub received: u64,
}

impl Seen {
    /// Nothing yet. Flows to and from the receiver's port will be left out where the receiver is in the pod's network namespace:
    /// in another one, a connection of the test may have the same port.
    pub(super) fn without(receiver_port: u16, receiver_in_the_pod: bool) -> Self {
        Self {
            receiver_port,
            receiver_in_the_pod,
            ..Self::default()
        }
    }

    pub(super) const fn receiver_port(&self) -> u16 {
        self.receiver_port
    }

    pub(super) fn take(&mut self, export: Received) {
        match export {
            Received::Traces(request) => {
                let port = self.receiver_in_the_pod.then_some(self.receiver_port);
                let own = |flow: &Flow| {
                    [flow.peer, flow.local]
                        .iter()
                        .any(|end| Some(end.port()) == port)
                };
                for resource in request.resource_spans {
                    let container = container_of(resource.resource.as_ref());
                    let spans = resource.scope_spans.into_iter().flat_map(|of| of.spans);
                    let flows = spans.map(|span| Flow::of(&span, &container));
                    self.flows.extend(flows.filter(|flow| !own(flow)));
                }
            }
            Received::Logs(request) => {
                let port = self.receiver_port.to_string();
                for resource in request.resource_logs {
                    let container = container_of(resource.resource.as_ref());
                    let scopes = resource.scope_logs.into_iter();
                    let records = scopes.flat_map(|of| of.log_records);
                    let records = records.map(|record| FlowRecord::of(record, &container));
                    self.log_records.extend(records.filter(|record| {
                        let ports = ["network.peer.port", "network.local.port"];
                        !ports
                            .iter()
                            .any(|name| record.attributes.get(*name) == Some(&port))
                    }));
                }
            }
            Received::Metrics(request) => {
                self.reports += 1;
                self.report_bytes = request.encoded_len();
                self.metrics.clear();
                self.counted_unix_ns = (u64::MAX, 0);
                for resource in request.resource_metrics {
                    let container = container_of(resource.resource.as_ref());
                    let texts = |attributes: &[KeyValue]| {
                        let mut all = texts(attributes);
                        all.extend(container.clone());
                        all
                    };
                    let scopes = resource.scope_metrics.into_iter();
                    let metrics = scopes.flat_map(|of| {
                        let scope = of.scope.unwrap_or_default().attributes;
                        self.source = texts(&scope)["flowcar.source"].clone();
                        of.metrics
                    });
                    for metric in metrics.collect::<Vec<_>>() {
                        let points = match metric.data {
                            Some(Data::Sum(sum)) => sum.data_points,
                            Some(Data::Gauge(gauge)) => gauge.data_points,
                            Some(Data::ExponentialHistogram(histogram)) => {
                                let counts = histogram.data_points.into_iter();
                                let counts = counts
                                    .filter(|of| of.start_time_unix_nano < of.time_unix_nano)
                                    .map(|of| (texts(&of.attributes), of.count as f64));
                                let all = self.metrics.entry(metric.name).or_default();
                                all.extend(counts);
                                continue;
                            }
                            _ => continue,
                        };
                        // The zero point that a series begins with is no value.
                        let begun = points
                            .into_iter()
                            .filter(|point| point.start_time_unix_nano < point.time_unix_nano);
                        let points = begun.map(|point| {
                            let (start, at) = (point.start_time_unix_nano, point.time_unix_nano);
                            if start > 0 {
                                self.counted_unix_ns = (self.counted_unix_ns.0.min(start), at);
                            }
                            let value = match point.value {
                                Some(number_data_point::Value::AsInt(value)) => value as f64,
                                Some(number_data_point::Value::AsDouble(value)) => value,
                                None => f64::NAN,
                            };
                            (texts(&point.attributes), value)
                        });
                        let points: Vec<_> = points.collect();
                        self.metrics.entry(metric.name).or_default().extend(points);
                    }
                }
                assert_eq!(self.sum("flowcar.self.books.unbalanced", &[]), 0.0);
                self.points_balance();
            }
        }
    }

    /// Asserts closed books: each connection opened or adopted is closed, live or lost.
    fn points_balance(&self) {
        let all = |what: &str| -> f64 {
            let name = format!("flowcar.tcp.connection.{what}");
            let points = self.metrics.get(&name).into_iter().flatten();
            points.map(|(_, value)| value).sum()
        };
        assert_eq!(
            all("opened") + all("adopted"),
            all("closed") + all("live") + all("lost"),
            "{:#?}",
            self.metrics
        );
    }

    /// Connections opened or adopted.
    pub fn began(&self) -> f64 {
        let sum = |what| self.sum(&format!("flowcar.tcp.connection.{what}"), &[]);
        sum("opened") + sum("adopted")
    }

    /// The sum of a metric's points that have these attributes, without those of flowcar's own exports.
    pub fn sum(&self, metric: &str, with: &[(&str, &str)]) -> f64 {
        let own = self
            .receiver_in_the_pod
            .then(|| self.receiver_port.to_string());
        let points = self.metrics.get(metric).into_iter().flatten();
        points
            .filter(|(attributes, _)| {
                own.is_none() || attributes.get("server.port") != own.as_ref()
            })
            .filter(|(attributes, _)| {
                with.iter()
                    .all(|(name, value)| attributes.get(*name).is_some_and(|is| is == value))
            })
            // Of no values: Iterator::sum() gives -0.
            .fold(0.0, |sum, (_, value)| sum + value)
    }

    /// The one flow of this end of this connection.
    ///
    /// # Panics
    /// There is none, or more than one.
    #[track_caller]
    pub fn flow(&self, report: &ConnectionReport) -> &Flow {
        self.flow_since(0, report)
    }

    /// The same among those that came after so many: ports are used again.
    ///
    /// # Panics
    /// There is none, or more than one.
    #[track_caller]
    pub fn flow_since(&self, before: usize, report: &ConnectionReport) -> &Flow {
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let (local, peer) = (canonical(report.local.unwrap()), canonical(report.peer));
        let mut found = self.flows[before..]
            .iter()
            .filter(|flow| flow.local == local && flow.peer == peer);
        let flow = found
            .next()
            .unwrap_or_else(|| panic!("no flow of {report:?}"));
        assert!(found.next().is_none(), "two flows of {report:?}");
        flow
    }
}

impl FlowRecord {
    fn of(record: LogRecord, container: &Option<(String, String)>) -> Self {
        let mut attributes = texts(&record.attributes);
        attributes.extend(container.clone());
        Self {
            span_id: record.span_id,
            event_name: record.event_name,
            severity: record.severity_text,
            attributes,
            times_unix_ns: (record.time_unix_nano, record.observed_time_unix_nano),
        }
    }
}

impl Flow {
    fn of(span: &Span, container: &Option<(String, String)>) -> Self {
        let mut attributes = texts(&span.attributes);
        attributes.extend(container.clone());
        // An attempt's ends may not be known.
        let address = |end: &str| {
            let of = |part| attributes.get(&format!("network.{end}.{part}"));
            SocketAddr::new(
                of("address").map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ip| ip.parse().unwrap()),
                of("port").map_or(0, |port| port.parse().unwrap()),
            )
        };
        let is_interim = attributes.contains_key("flowcar.tcp.is_interim");
        let of = if is_interim { "interim.bytes" } else { "bytes" };
        let count = |what| attributes[&format!("flowcar.tcp.{of}.{what}")].parse();
        Self {
            local: address("local"),
            peer: address("peer"),
            sent: count("sent").unwrap(),
            received: count("received").unwrap(),
            trace_id: span.trace_id.clone(),
            span_id: span.span_id.clone(),
            end_unix_ns: span.end_time_unix_nano,
            attributes,
        }
    }

    /// An attribute; empty where it is absent.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", |value| value)
    }

    /// `server.address` and `.port`
    ///
    /// # Panics
    /// They are absent.
    pub fn server(&self) -> SocketAddr {
        let ip: IpAddr = self.get("server.address").parse().unwrap();
        SocketAddr::new(ip, self.get("server.port").parse().unwrap())
    }

    /// `network.tcp.handshake.role`
    pub fn role(&self) -> &str {
        self.get("network.tcp.handshake.role")
    }

    /// `flowcar.tcp.close.reason` of a connection, `error.type` of an attempt.
    pub fn end(&self) -> &str {
        match self.get("flowcar.tcp.close.reason") {
            "" => self.get("error.type"),
            reason => reason,
        }
    }
}

/// Asserts that the flow has the bytes that the application sent and received.
///
/// # Panics
/// It has not.
#[track_caller]
pub fn bytes_hold(flow: &Flow, application: &ConnectionReport) {
    assert_eq!(
        (flow.sent, flow.received),
        (application.sent, application.received),
        "{flow:?} of {application:?}"
    );
}

/// `container.id` of a resource.
fn container_of(resource: Option<&Resource>) -> Option<(String, String)> {
    let attributes = texts(&resource?.attributes);
    attributes
        .get_key_value("container.id")
        .map(|(name, id)| (name.clone(), id.clone()))
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(value) => value.to_string(),
        Value::BoolValue(value) => value.to_string(),
        Value::DoubleValue(value) => value.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .filter_map(|pair| {
            let value = pair.value.as_ref()?.value.as_ref()?;
            Some((pair.key.clone(), text(value)))
        })
        .collect()
}
