//! One span for each connection. Pure.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::names::{SCHEMA_URL, SCOPE, VERSION, attribute};
use crate::{
    clock::Anchor,
    config::TraceParent,
    flow::{Flow, InterimSpan, Monotonic, Outcome, Role, RttKind, SocketFigures, SpanTime, Volume},
    histogram::Histogram,
};

/// The context of a span besides its flow.
#[derive(Clone, Debug)]
pub struct SpanOptions {
    /// Whether a server's span names the client's as its parent.
    pub trace_parent: TraceParent,
    /// The source of flows (`flowcar.source`).
    pub source: String,
}

/// The span of a flow that has closed, or is still open when flowcar ends.
pub fn span(flow: &Flow, anchor: &Anchor, options: &SpanOptions) -> SpanData {
    let parent = flow
        .trace
        .parent_span_id
        .filter(|_| names_parent(options.trace_parent, flow.peer.ip()));
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(flow.trace.trace_id),
            SpanId::from(flow.trace.span_id),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: parent.is_some(),
        span_kind: kind(flow.role),
        name: name(flow).into(),
        start_time: wall(anchor, flow.started),
        end_time: wall(anchor, flow.seen.max(flow.started)),
        attributes: attributes(flow),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: status(flow),
        instrumentation_scope: InstrumentationScope::builder(SCOPE)
            .with_version(VERSION)
            .with_schema_url(SCHEMA_URL)
            .with_attributes([KeyValue::new(attribute::SOURCE, options.source.clone())])
            .build(),
    }
}

fn name(flow: &Flow) -> String {
    match flow.server_port() {
        Some(port) => format!("tcp {port}"),
        None => "tcp".to_owned(),
    }
}

/// The interim span of one interval of an open flow: a child of the flow's own span, which is sent when the flow closes or flowcar
/// ends. Its attributes are of that interval only and have names of their own, so that no sum over spans counts a byte twice.
pub fn interim_span(
    flow: &Flow,
    cut: &InterimSpan,
    anchor: &Anchor,
    options: &SpanOptions,
) -> SpanData {
    let whole = span(flow, anchor, options);
    SpanData {
        span_context: SpanContext::new(
            whole.span_context.trace_id(),
            SpanId::from(flow.trace.part(cut.number)),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: whole.span_context.span_id(),
        parent_span_is_remote: false,
        // The connection's own span gives the edge from client to server.
        span_kind: SpanKind::Internal,
        name: format!("{} interim", whole.name).into(),
        attributes: interim(flow, &cut.volume),
        ..at(cut.time, whole)
    }
}

/// The same span at another time.
pub fn at(time: SpanTime, span: SpanData) -> SpanData {
    let wall = |unix_ns| UNIX_EPOCH + Duration::from_nanos(unix_ns);
    SpanData {
        start_time: wall(time.start_unix_ns),
        end_time: wall(time.end_unix_ns),
        ..span
    }
}

/// Whether the peer may have a flowcar of its own, whose span would be the parent: a public client has none, and
/// its absent span would leave the trace without a root.
fn names_parent(rule: TraceParent, peer: IpAddr) -> bool {
    match rule {
        TraceParent::Always => true,
        TraceParent::Never => false,
        TraceParent::Auto => !is_public(peer),
    }
}

fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || is_shared(v4))
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()),
    }
}

/// 100.64.0.0/10 (RFC 6598), which clusters take for pods when RFC 1918 is used up.
fn is_shared(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && second & 0b1100_0000 == 64
}

const fn kind(role: Role) -> SpanKind {
    match role {
        Role::Client => SpanKind::Client,
        Role::Server => SpanKind::Server,
        Role::Unknown => SpanKind::Internal,
    }
}

fn wall(anchor: &Anchor, time: Monotonic) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(anchor.unix_ns(time))
}

fn status(flow: &Flow) -> Status {
    match flow.outcome {
        // The reason is in error.type.
        Some(_) if flow.is_failure() => Status::error(""),
        _ => Status::Unset,
    }
}

fn attributes(flow: &Flow) -> Vec<KeyValue> {
    let mut all = ends(flow);
    all.extend(process(flow));
    all.extend(volume(&flow.volume));
    all.extend(latencies(flow));
    match flow.outcome {
        Some(Outcome::Closed(end)) => all.push(KeyValue::new(attribute::CLOSE_REASON, end.name())),
        Some(Outcome::Failed(_)) => {}
        None => all.push(KeyValue::new(attribute::OPEN, true)),
    }
    if let Some(outcome) = flow.outcome.filter(|_| flow.is_failure()) {
        all.push(KeyValue::new(attribute::ERROR_TYPE, outcome.name()));
    }
    if flow.reset_after_fin {
        all.push(KeyValue::new(attribute::RESET_AFTER_FIN, true));
    }
    if let Some(by) = flow.adopted {
        all.push(KeyValue::new(attribute::ADOPTED_BY, by.name()));
    }
    all
}

fn interim(flow: &Flow, volume: &Volume) -> Vec<KeyValue> {
    let figures = [
        (attribute::INTERIM_BYTES_SENT, volume.bytes_sent),
        (attribute::INTERIM_BYTES_RECEIVED, volume.bytes_received),
        (attribute::INTERIM_SEGMENTS_SENT, volume.segments_sent),
        (
            attribute::INTERIM_SEGMENTS_RECEIVED,
            volume.segments_received,
        ),
        (attribute::INTERIM_RETRANSMITS, volume.retransmits.total()),
    ];
    let mut all = ends(flow);
    all.extend(process(flow));
    all.push(KeyValue::new(attribute::INTERIM, true));
    all.extend(figures.map(counted));
    all
}

fn counted((name, count): (&'static str, u64)) -> KeyValue {
    KeyValue::new(name, i64::try_from(count).unwrap_or(i64::MAX))
}

fn ends(flow: &Flow) -> Vec<KeyValue> {
    let mut all = vec![
        KeyValue::new(attribute::TRANSPORT, "tcp"),
        KeyValue::new(attribute::NETWORK_TYPE, network_type(flow.peer.ip())),
        KeyValue::new(attribute::ROLE, role(flow.role)),
    ];
    all.extend(end(
        attribute::PEER_ADDRESS,
        attribute::PEER_PORT,
        flow.peer,
    ));
    all.extend(end(
        attribute::LOCAL_ADDRESS,
        attribute::LOCAL_PORT,
        flow.local,
    ));
    let Some(server) = flow.server() else {
        return all;
    };
    let named = |of: KeyValue| match &flow.name {
        Some(name) if of.key.as_str() == attribute::SERVER_ADDRESS => {
            KeyValue::new(attribute::SERVER_ADDRESS, name.to_string())
        }
        _ => of,
    };
    let server = end(attribute::SERVER_ADDRESS, attribute::SERVER_PORT, server);
    all.extend(server.map(named));
    let client = match flow.role {
        Role::Server => flow.peer,
        _ => flow.local,
    };
    all.extend(end(
        attribute::CLIENT_ADDRESS,
        attribute::CLIENT_PORT,
        client,
    ));
    all
}

/// What is known of an end: an attempt may have failed before the kernel chose an address, and a socket that was disconnected has none.
fn end(
    address: &'static str,
    port: &'static str,
    end: SocketAddr,
) -> impl Iterator<Item = KeyValue> {
    let has_address = !end.ip().is_unspecified();
    let address = has_address.then(|| KeyValue::new(address, end.ip().to_string()));
    let port = (end.port() != 0).then(|| KeyValue::new(port, i64::from(end.port())));
    address.into_iter().chain(port)
}

fn process(flow: &Flow) -> impl Iterator<Item = KeyValue> {
    let process = flow.origin.process.as_ref();
    let pid = process.map(|of| KeyValue::new(attribute::PROCESS_PID, i64::from(of.pid.get())));
    let name = process.and_then(|of| of.name.as_ref());
    let name = name.map(|name| KeyValue::new(attribute::PROCESS_NAME, name.to_string()));
    pid.into_iter().chain(name)
}

fn volume(volume: &Volume) -> [KeyValue; 5] {
    [
        (attribute::BYTES_SENT, volume.bytes_sent),
        (attribute::BYTES_RECEIVED, volume.bytes_received),
        (attribute::SEGMENTS_SENT, volume.segments_sent),
        (attribute::SEGMENTS_RECEIVED, volume.segments_received),
        (attribute::RETRANSMITS, volume.retransmits.total()),
    ]
    .map(counted)
}

fn latencies(flow: &Flow) -> Vec<KeyValue> {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let quantile = |of: &Histogram, q| of.quantile_s(q);
    let (rtt, exchanges) = (&flow.rtt, &flow.exchanges);
    let mut all: Vec<_> = [
        (attribute::CONNECT_DURATION, flow.connect_ns().map(seconds)),
        (attribute::RTT_MIN, min_rtt_s(flow)),
        (attribute::RTT_P50, quantile(rtt, 0.5)),
        (attribute::RTT_P99, quantile(rtt, 0.99)),
        (attribute::EXCHANGE_P50, quantile(exchanges, 0.5)),
        (attribute::EXCHANGE_P99, quantile(exchanges, 0.99)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(KeyValue::new(name, value?)))
    .collect();
    all.extend(flow.socket.iter().flat_map(socket));
    if !rtt.is_empty() {
        all.push(KeyValue::new(attribute::RTT_KIND, rtt_kind(flow.rtt_kind)));
    }
    if !exchanges.is_empty() {
        let count = i64::try_from(exchanges.count()).unwrap_or(i64::MAX);
        all.push(KeyValue::new(attribute::EXCHANGES, count));
    }
    all
}

/// The minimum sample, or the kernel's minimum, which includes every round trip.
fn min_rtt_s(flow: &Flow) -> Option<f64> {
    let kernels = flow.socket.and_then(|figures| figures.min_rtt_us);
    let kernels = kernels.map(|us| f64::from(us) / 1e6);
    let samples = flow.rtt.min_ns().map(|ns| ns as f64 / 1e9);
    match (samples, kernels) {
        (Some(sample), Some(kernel)) => Some(sample.min(kernel)),
        (one, other) => one.or(other),
    }
}

fn socket(figures: &SocketFigures) -> impl Iterator<Item = KeyValue> {
    let seconds = |name, us: u64| (us > 0).then(|| KeyValue::new(name, us as f64 / 1e6));
    let rate = |rate| {
        KeyValue::new(
            attribute::DELIVERY_RATE,
            i64::try_from(rate).unwrap_or(i64::MAX),
        )
    };
    [
        seconds(
            attribute::RECEIVE_WINDOW_LIMITED,
            figures.receive_window_limited_us,
        ),
        seconds(
            attribute::SEND_BUFFER_LIMITED,
            figures.send_buffer_limited_us,
        ),
        figures.delivery_rate.map(rate),
    ]
    .into_iter()
    .flatten()
}

const fn network_type(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ipv4",
        IpAddr::V6(_) => "ipv6",
    }
}

/// The value of `network.tcp.handshake.role`.
pub(super) const fn role(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Server => "server",
        Role::Unknown => "unknown",
    }
}

/// The value of `flowcar.tcp.rtt.kind`.
pub(super) const fn rtt_kind(kind: RttKind) -> &'static str {
    match kind {
        RttKind::Measured => "measured",
        RttKind::Smoothed => "smoothed",
    }
}

#[cfg(test)]
mod tests;
