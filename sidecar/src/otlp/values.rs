//! The values of every attribute that has a list of them: what each means, and what to do about it. `docs/attributes.md` is written from
//! this table, and debug builds send no value that is not in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use super::names::attribute;
use crate::flow::{AdoptedBy, End, Failure, Lost, Role, RttKind};

/// Which of [`End::ALL`] are of connections that were cut off.
const CUT_OFF: std::ops::Range<usize> = 2..6;

/// A value of an attribute.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// As it is sent.
    pub name: &'static str,
    /// What it says.
    pub meaning: &'static str,
    /// What to do; empty where there is nothing.
    pub remedy: &'static str,
}

/// An attribute, and where it stands.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Its name.
    pub name: &'static str,
    /// On which metrics or spans.
    pub on: &'static str,
    /// Every value that it can have there.
    pub values: Vec<Value>,
}

/// Every attribute with a list of values. One stands twice where it has other values on other metrics.
pub fn all() -> Vec<Attribute> {
    let ends = End::ALL.map(end);
    let failures = Failure::ALL.map(failure);
    let of = |name, on, values: &[Value]| Attribute {
        name,
        on,
        values: values.to_vec(),
    };
    vec![
        of(
            attribute::END,
            "Connections that were established: `flowcar.tcp.connection.closed`, `flowcar.tcp.connection.duration`, spans.",
            &ends,
        ),
        of(
            attribute::ERROR_TYPE,
            "Attempts that were never established: `flowcar.tcp.connection.failed`, `flowcar.tcp.connect.duration`, spans.",
            &failures,
        ),
        of(
            attribute::ERROR_TYPE,
            "Connections that were cut off: `flowcar.tcp.connection.closed`, `flowcar.tcp.connection.duration`, spans. Absent of those that were closed.",
            &ends[CUT_OFF],
        ),
        of(
            attribute::ERROR_TYPE,
            "flowcar's own exports: `otel.sdk.exporter.*`.",
            &EXPORT_ERRORS,
        ),
        of(
            attribute::LOST,
            "`flowcar.tcp.connection.lost`",
            &Lost::ALL.map(lost),
        ),
        of(attribute::CAUSE, "`flowcar.tcp.retransmits`", &CAUSES),
        of(attribute::LIMIT, "`flowcar.tcp.limited.time`", &LIMITS),
        of(
            attribute::RTT_KIND,
            "`flowcar.tcp.rtt`, spans",
            &RttKind::ALL.map(rtt_kind),
        ),
        of(
            attribute::ROLE,
            "All of `flowcar.tcp.*` but listeners and `.lost`, spans",
            &Role::ALL.map(role),
        ),
        of(
            attribute::DIRECTION,
            "`flowcar.tcp.io`, `flowcar.tcp.segments`",
            &DIRECTIONS,
        ),
        of(attribute::TRANSPORT, "Spans", &TRANSPORTS),
        of(attribute::NETWORK_TYPE, "Spans", &NETWORK_TYPES),
        of(
            attribute::RECORD_KIND,
            "`flowcar.self.record.decoded`, `flowcar.self.record.dropped`",
            &RECORD_KINDS,
        ),
        of(attribute::SOCKETS, "`flowcar.self.socket.count`", &SOCKETS),
        of(attribute::REASON, "`flowcar.self.span.dropped`", &REASONS),
        of(
            attribute::ADOPTED_BY,
            "`flowcar.tcp.connection.adopted`, spans",
            &AdoptedBy::ALL.map(adopted_by),
        ),
        of(
            attribute::SOURCE,
            "The instrumentation scope of all metrics and spans",
            &SOURCES,
        ),
        of(
            attribute::COMPONENT_TYPE,
            "`otel.sdk.*`: flowcar's own exports",
            &COMPONENTS,
        ),
    ]
}

/// Whether an attribute may have this value: it has no list of values, or the value is on it.
pub fn is_known(name: &str, value: &str) -> bool {
    static LISTS: LazyLock<BTreeMap<&str, BTreeSet<&str>>> = LazyLock::new(|| {
        let mut lists = BTreeMap::<_, BTreeSet<_>>::new();
        for Attribute { name, values, .. } in all() {
            let list = lists.entry(name).or_default();
            list.extend(values.iter().map(|value| value.name));
        }
        lists
    });
    LISTS.get(name).is_none_or(|values| values.contains(value))
}

const fn value(name: &'static str, meaning: &'static str, remedy: &'static str) -> Value {
    Value {
        name,
        meaning,
        remedy,
    }
}

const fn end(end: End) -> Value {
    let (meaning, remedy) = match end {
        End::LocalFin => ("This end closed first.", ""),
        End::PeerFin => (
            "The peer closed first. Where a RST followed, the span says so (`flowcar.tcp.reset_after_fin`): it answered what was still sent, as the close_notify of TLS, and is no failure.",
            "",
        ),
        End::ResetSent => (
            "This end cut the connection off by a RST: its application closed with SO_LINGER 0 or with data unread, or an operator destroyed the socket (`ss -K`).",
            "Have the application read to the end before it closes.",
        ),
        End::ResetReceived => (
            "The peer, or a device on the way, cut the connection off by a RST.",
            "Look at the peer's log and its restarts; behind a load balancer, NAT or firewall compare its idle time-out with the keepalive of the application.",
        ),
        End::Reset => (
            "A RST cut the connection off; which end sent it was not seen.",
            "FLOWCAR_EXCHANGE=on sees which.",
        ),
        End::Timeout => (
            "The kernel gave up, because the peer acknowledged nothing any more.",
            "Look for a path, a peer or a device that drops packets without a word.",
        ),
        End::Unknown => (
            "It ended, and what was seen of it does not tell how.",
            "With the eBPF source nearly every end is told: `flowcar check` says what stands in its way.",
        ),
    };
    value(end.name(), meaning, remedy)
}

const fn failure(failure: Failure) -> Value {
    let (meaning, remedy) = match failure {
        Failure::Refused => (
            "The peer answered the SYN with a RST: nobody listens at the port, or a filter rejects with a RST.",
            "Start the server, or mend the port.",
        ),
        Failure::Timeout => (
            "No answer came until the kernel gave up: SYN retries spent, or TCP_USER_TIMEOUT. A packet filter of this end that drops the SYN looks the same.",
            "Look for a filter that drops, a peer that is down, a listener whose queue is full (`flowcar.tcp.listener.drops` at the server).",
        ),
        Failure::Reset => (
            "A RST came after the peer's SYN had come, where both ends called connect().",
            "",
        ),
        Failure::Unreachable => (
            "An ICMP error came: destination unreachable (network, host, port, administratively prohibited), time exceeded or parameter problem. The kernel also makes one of its own where a neighbour does not answer ARP.",
            "Look at routes, network policies and firewalls on the way.",
        ),
        Failure::Abandoned => (
            "The application dropped the attempt before an answer came: close(), shutdown(), connect(AF_UNSPEC), a time-out of its own, the end of its process; or an operator did (`ss -K`).",
            "Where it is a time-out: as for `timeout`, and compare the application's limit with `flowcar.tcp.connect.duration`. Clients that race addresses (RFC 8305) abandon the slower one by design.",
        ),
        Failure::Local => (
            "This end could not send its SYN.",
            "Look at routes and packet filters of this end.",
        ),
        Failure::Other => (
            "It ended, and what was seen of it does not tell why.",
            "With the eBPF source nearly every reason is told: `flowcar check` says what stands in its way.",
        ),
    };
    value(failure.name(), meaning, remedy)
}

const fn lost(lost: Lost) -> Value {
    let (meaning, remedy) = match lost {
        Lost::Storage => (
            "The kernel refused memory for the socket.",
            "Raise `net.core.optmem_max`, or the memory limit of flowcar's container.",
        ),
        Lost::Callbacks => (
            "Another program on the cgroup took the socket's callbacks away, or the kernel refused to set them.",
            "Have the other `sock_ops` program keep the callbacks that are set.",
        ),
        Lost::RingFull => (
            "The ring buffer was full when the connection closed.",
            "Raise FLOWCAR_RING_BYTES or flowcar's CPU limit.",
        ),
        Lost::Malformed => (
            "The record of its close did not decode.",
            "Please report it.",
        ),
        Lost::Overrun => (
            "Without eBPF: more sockets closed at once than the kernel's messages have room for.",
            "Use the eBPF source.",
        ),
        Lost::Wiped => (
            "Without eBPF: its socket was disconnected before it was first seen, which wipes its counts.",
            "Use the eBPF source.",
        ),
        Lost::Detached => (
            "It ended while flowcar's programs were off the cgroup: another process detached them.",
            "Find who did it (`flowcar.self.unfollowed.time` and the log tell when): whoever holds CAP_SYS_ADMIN, or shares flowcar's PID namespace with CAP_SYS_PTRACE, can.",
        ),
        Lost::Restart => ("It ended while no flowcar followed.", ""),
    };
    value(lost.name(), meaning, remedy)
}

const fn rtt_kind(kind: RttKind) -> Value {
    match kind {
        RttKind::Measured => value("measured", "One sample for each round trip.", ""),
        RttKind::Smoothed => value(
            "smoothed",
            "The kernel's running average, once a round trip (kernels before 6.10) or once a look (without eBPF).",
            "Percentiles of it are lower than those of single round trips.",
        ),
    }
}

const fn role(role: Role) -> Value {
    match role {
        Role::Client => value("client", "This end called connect().", ""),
        Role::Server => value("server", "This end accepted the connection.", ""),
        Role::Unknown => value(
            "unknown",
            "The handshake was not seen, and the counts do not tell.",
            "",
        ),
    }
}

const EXPORT_ERRORS: [Value; 4] = [
    value(
        "too_large",
        "The receiver takes no export of this size, however small it is cut.",
        "Raise the receiver's limit of a request's size.",
    ),
    value(
        "rejected",
        "The receiver took the export and refused some of what was in it.",
        "Read the receiver's message in flowcar's log.",
    ),
    value(
        "failure",
        "The export failed, and may work when it is tried again.",
        "Look at the receiver and the way to it.",
    ),
    value(
        "refused",
        "The receiver refused the export for good.",
        "Read the receiver's message in flowcar's log; check endpoint, protocol and credentials.",
    ),
];

const CAUSES: [Value; 6] = [
    value(
        "syn",
        "A SYN was sent again.",
        "As for the reason `timeout` of attempts.",
    ),
    value(
        "synack",
        "A SYN-ACK was sent again: it, or the client's answer, was lost.",
        "Look for loss; many from many clients are a SYN flood.",
    ),
    value(
        "fast",
        "The peer's acknowledgements showed a loss.",
        "Look for loss on the path.",
    ),
    value(
        "timeout",
        "The retransmission timer expired.",
        "Look for loss on the path, or a peer that stands still.",
    ),
    value(
        "tail_loss_probe",
        "The end of what was sent was not acknowledged in time (RFC 8985).",
        "Look for loss on the path; some are sent for nothing.",
    ),
    value(
        "unknown",
        "Without eBPF, and where the kernel refused memory, causes are not told.",
        "",
    ),
];

const LIMITS: [Value; 2] = [
    value(
        "receive_window",
        "The peer's window was full: its application reads too slowly, or its receive buffer is small.",
        "Look at the peer.",
    ),
    value(
        "send_buffer",
        "This end's send buffer was full.",
        "Raise `net.ipv4.tcp_wmem`, or SO_SNDBUF.",
    ),
];

const DIRECTIONS: [Value; 2] = [
    value("transmit", "What this end sent.", ""),
    value("receive", "What this end received.", ""),
];

const TRANSPORTS: [Value; 1] = [value("tcp", "flowcar follows nothing else.", "")];

const NETWORK_TYPES: [Value; 2] = [
    value("ipv4", "IPv4, also by a socket of IPv6.", ""),
    value("ipv6", "IPv6.", ""),
];

const fn adopted_by(by: AdoptedBy) -> Value {
    match by {
        AdoptedBy::Startup => value(
            "startup",
            "It was open when flowcar began to follow, or when the followed cgroup was made anew.",
            "",
        ),
        AdoptedBy::Restart => value(
            "restart",
            "It was open when flowcar began to follow, and the flowcar before this one had counted it as opened or adopted.",
            "Over restarts, count `startup` alone.",
        ),
    }
}

const SOURCES: [Value; 2] = [
    value(
        "ebpf",
        "eBPF programs on the cgroup, and socket dumps beside them where they can be had.",
        "",
    ),
    value(
        "inet_diag",
        "Socket dumps alone: no handshake is seen, and short connections are missed.",
        "`flowcar check` says what stands in the way of eBPF.",
    ),
];

const COMPONENTS: [Value; 5] = [
    value("otlp_grpc_metric_exporter", "Metrics over gRPC.", ""),
    value("otlp_http_metric_exporter", "Metrics over HTTP.", ""),
    value("otlp_grpc_span_exporter", "Spans over gRPC.", ""),
    value("otlp_http_span_exporter", "Spans over HTTP.", ""),
    value("batching_span_processor", "Spans that wait.", ""),
];

const RECORD_KINDS: [Value; 8] = [
    value(
        "open",
        "eBPF: a connection was established.",
        "Dropped ones are made good by later records.",
    ),
    value(
        "sample",
        "eBPF: a connection that lives.",
        "Dropped ones are made good by later records.",
    ),
    value(
        "close",
        "eBPF: a connection, or an attempt, ended.",
        "Dropped ones are lost: raise FLOWCAR_RING_BYTES.",
    ),
    value(
        "failed",
        "eBPF, of dropped ones: an attempt ended.",
        "Raise FLOWCAR_RING_BYTES.",
    ),
    value(
        "detail",
        "eBPF, of dropped ones: samples for which the kernel refused memory.",
        "As for `socket_storage`.",
    ),
    value("exchange", "eBPF: the exchanges of a connection.", ""),
    value("look", "inet_diag: a socket in a dump.", ""),
    value(
        "end",
        "inet_diag: a socket ended.",
        "Dropped ones are `destroy_overrun`.",
    ),
];

const SOCKETS: [Value; 2] = [
    value("followed", "Of the followed cgroup.", ""),
    value("other", "Of another.", ""),
];

const REASONS: [Value; 6] = [
    value(
        "too_large",
        "The receiver takes no export of this size, however small it is cut.",
        "Raise the receiver's limit of a request's size.",
    ),
    value(
        "rate_limit",
        "More spans in a second than FLOWCAR_SPANS_PER_SECOND; those sent stand for them by their `flowcar.sample.probability`.",
        "Raise it, if the receiver bears it.",
    ),
    value(
        "queue_full",
        "More spans waited than FLOWCAR_SPAN_QUEUE or FLOWCAR_SPAN_QUEUE_BYTES allow.",
        "Look why the receiver does not take them.",
    ),
    value(
        "expired",
        "The receiver took none for 15 minutes.",
        "Look at the receiver.",
    ),
    value(
        "refused",
        "The receiver refused the export that they were in.",
        "Read the receiver's message in flowcar's log.",
    ),
    value(
        "shutdown",
        "flowcar ended before the receiver took them.",
        "Raise FLOWCAR_SHUTDOWN_TIMEOUT.",
    ),
];

/// The tables in Markdown.
pub fn markdown() -> String {
    let mut text = String::new();
    for Attribute { name, on, values } in all() {
        text +=
            &format!("### `{name}`\n\n{on}\n\n| value | meaning | what to do |\n|---|---|---|\n");
        for Value {
            name,
            meaning,
            remedy,
        } in values
        {
            text += &format!("| `{name}` | {meaning} | {remedy} |\n");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_listed_once_and_say_something() {
        for Attribute { name, on, values } in all() {
            let mut seen = BTreeSet::new();
            for value in values {
                assert!(seen.insert(value.name), "{name} {value:?}");
                assert!(value.meaning.ends_with('.'), "{name} {value:?}");
                assert!(is_known(name, value.name));
            }
            assert!(!seen.is_empty() && !on.is_empty());
        }
        assert!(!is_known(attribute::CAUSE, "nobody"));
        assert!(is_known(attribute::PEER_ADDRESS, "10.0.0.1"));
    }
}
