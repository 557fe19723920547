//! Every attribute with a list of values: what each value means, and what to do about it. `docs/attributes.md` is generated from this
//! table, and debug builds send no value that is not in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use super::names::attribute;
use crate::{
    flow::{AdoptedBy, CloseReason, Failure, Lost, Role, RttKind},
    origin::Unresolved,
    peer::{NoName, Unused},
    snapshot::{PressureResource, Stall},
};

/// Which of [`CloseReason::ALL`] are of connections that were cut off.
const CUT_OFF: std::ops::Range<usize> = 2..6;

/// A value of an attribute.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// The value as it is sent.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do; empty if there is nothing to do.
    pub remedy: &'static str,
}

/// An attribute, and what has it.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Its name.
    pub name: &'static str,
    /// The metrics or spans that have it.
    pub on: &'static str,
    /// Every value that it can have there.
    pub values: Vec<Value>,
}

/// Every attribute with a list of values. An attribute with other values on other metrics is listed twice.
pub fn all() -> Vec<Attribute> {
    let close_reasons = CloseReason::ALL.map(close_reason);
    let failures = Failure::ALL.map(failure);
    let of = |name, on, values: &[Value]| Attribute {
        name,
        on,
        values: values.to_vec(),
    };
    vec![
        of(
            attribute::CLOSE_REASON,
            "Connections that were established: `flowcar.tcp.connection.closed`, `flowcar.tcp.connection.duration`, spans and log records.",
            &close_reasons,
        ),
        of(
            attribute::ERROR_TYPE,
            "Attempts that were never established: `flowcar.tcp.connection.failed`, `flowcar.tcp.connect.duration`, spans and log records.",
            &failures,
        ),
        of(
            attribute::ERROR_TYPE,
            "Connections that were cut off: `flowcar.tcp.connection.closed`, `flowcar.tcp.connection.duration`, spans. Absent from those that were closed, and from health checks: connections that their opener reset before it sent any payload.",
            &close_reasons[CUT_OFF],
        ),
        of(
            attribute::ERROR_TYPE,
            "flowcar's own exports: `otel.sdk.exporter.*`.",
            &EXPORT_ERRORS,
        ),
        of(
            attribute::LOST_REASON,
            "`flowcar.tcp.connection.lost`",
            &Lost::ALL.map(lost),
        ),
        of(
            attribute::RETRANSMIT_TYPE,
            "`flowcar.tcp.retransmits`",
            &CAUSES,
        ),
        of(attribute::LIMITED_BY, "`flowcar.tcp.limited.time`", &LIMITS),
        of(
            attribute::RTT_KIND,
            "`flowcar.tcp.rtt`, spans",
            &RttKind::ALL.map(rtt_kind),
        ),
        of(
            attribute::ROLE,
            "All of `flowcar.tcp.*` except listeners and `.lost`, spans",
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
        of(
            attribute::SOCKET_SCOPE,
            "`flowcar.self.socket.count`",
            &SOCKETS,
        ),
        of(
            attribute::DROP_REASON,
            "`flowcar.self.span.dropped`, `flowcar.self.log_record.dropped`",
            &REASONS,
        ),
        of(
            attribute::DNS_REASON,
            "`flowcar.self.dns.dropped`",
            &Unused::ALL.map(unused),
        ),
        of(
            attribute::UNNAMED_REASON,
            "`flowcar.self.flow.unnamed`",
            &NoName::ALL.map(unnamed),
        ),
        of(
            attribute::CONTAINER_REASON,
            "`flowcar.self.container.unresolved`",
            &Unresolved::ALL.map(unresolved),
        ),
        of(attribute::CPU_MODE, "`container.cpu.time`", &CPU_MODES),
        of(
            attribute::DISK_IO_DIRECTION,
            "`container.disk.io`, `flowcar.container.disk.operations`",
            &DISK_IO_DIRECTIONS,
        ),
        of(
            attribute::FAULT_TYPE,
            "`container.memory.paging.faults`",
            &FAULT_TYPES,
        ),
        of(
            attribute::PRESSURE_RESOURCE,
            "`flowcar.container.pressure.time`",
            &PressureResource::ALL.map(pressure_resource),
        ),
        of(
            attribute::PRESSURE_STALL,
            "`flowcar.container.pressure.time`",
            &Stall::ALL.map(stall),
        ),
        of(
            attribute::ADOPTED_BY,
            "`flowcar.tcp.connection.adopted`, spans",
            &AdoptedBy::ALL.map(adopted_by),
        ),
        of(
            attribute::SOURCE,
            "The instrumentation scope of all metrics, spans and log records",
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

const fn close_reason(reason: CloseReason) -> Value {
    let (meaning, remedy) = match reason {
        CloseReason::LocalFin => ("This end closed first.", ""),
        CloseReason::PeerFin => (
            "The peer closed first. If a RST followed, the span has `flowcar.tcp.reset_after_fin`: the RST answered data that was still sent, such as TLS's close_notify, and is no failure.",
            "",
        ),
        CloseReason::ResetSent => (
            "This end cut the connection off with a RST: its application closed with SO_LINGER 0 or with unread data, or an operator destroyed the socket (`ss -K`).",
            "Have the application read all data before it closes.",
        ),
        CloseReason::ResetReceived => (
            "The peer, or a device on the path, cut the connection off with a RST.",
            "Check the peer's log and restarts. Behind a load balancer, NAT or firewall compare its idle timeout with the application's keepalive.",
        ),
        CloseReason::Reset => (
            "A RST cut the connection off; which end sent it is unknown.",
            "Set FLOWCAR_EXCHANGE=on to learn which end sent it.",
        ),
        CloseReason::Timeout => (
            "The kernel aborted the connection because the peer acknowledged nothing any more.",
            "Check for a path, a peer or a device that drops packets silently.",
        ),
        CloseReason::Unknown => (
            "The connection closed, and how is unknown.",
            "With the eBPF source nearly every close reason is known: `flowcar check` reports what prevents eBPF.",
        ),
    };
    value(reason.name(), meaning, remedy)
}

const fn failure(failure: Failure) -> Value {
    let (meaning, remedy) = match failure {
        Failure::Refused => (
            "The peer answered the SYN with a RST: no process listens on the port, or a filter rejects with a RST.",
            "Start the server, or correct the port.",
        ),
        Failure::Timeout => (
            "No answer came before the kernel aborted the attempt: its SYN retries were used up, or TCP_USER_TIMEOUT expired. A packet filter of this end that drops the SYN has the same effect.",
            "Check for a filter that drops packets, a peer that is down, a listener whose queue is full (`flowcar.tcp.listener.drops` at the server).",
        ),
        Failure::Reset => (
            "A RST came after the peer's SYN; both ends had called connect().",
            "",
        ),
        Failure::Unreachable => (
            "An ICMP error came: destination unreachable (network, host, port, administratively prohibited), time exceeded or parameter problem. The kernel also generates one when a neighbour does not answer ARP.",
            "Check routes, network policies and firewalls on the path.",
        ),
        Failure::Abandoned => (
            "The application abandoned the attempt before an answer came: close(), shutdown(), connect(AF_UNSPEC), its own timeout, the end of its process; or an operator did (`ss -K`).",
            "After a timeout: as for `timeout`, and compare the application's limit with `flowcar.tcp.connect.duration`. Clients that race addresses (RFC 8305) abandon the slower one by design.",
        ),
        Failure::Local => (
            "connect() failed before a SYN was sent: no free port, no route, no such local address, a policy that forbids it. Without eBPF such attempts are not seen.",
            "Check how many connections to the same server are open or in TIME_WAIT (`net.ipv4.ip_local_port_range`), routes, and network policies that act on connect().",
        ),
        Failure::Other => (
            "The attempt failed, and why is unknown.",
            "With the eBPF source nearly every reason is known: `flowcar check` reports what prevents eBPF.",
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
            "Another program on the cgroup cleared the socket's callbacks, or the kernel refused to set them.",
            "Have the other `sock_ops` program keep the callbacks that are set.",
        ),
        Lost::RingFull => (
            "The ring buffer was full when the connection closed.",
            "Raise FLOWCAR_RING_BYTES or flowcar's CPU limit.",
        ),
        Lost::Malformed => (
            "The record of the close did not decode.",
            "Please report it.",
        ),
        Lost::Overrun => (
            "Without eBPF: more sockets closed at once than the kernel's queue of close events holds.",
            "Use the eBPF source.",
        ),
        Lost::Disconnected => (
            "Without eBPF: the socket of a short connection was disconnected before a socket dump showed it, which clears its counts.",
            "Use the eBPF source, which counts such connections.",
        ),
        Lost::Detached => (
            "The connection closed while flowcar's programs were detached: another process detached them from the cgroup.",
            "Find that process (`flowcar.self.unfollowed.time` and the log show when): it needs CAP_SYS_ADMIN, or CAP_SYS_PTRACE in flowcar's PID namespace.",
        ),
        Lost::Restart => ("The connection closed while no flowcar followed it.", ""),
    };
    value(lost.name(), meaning, remedy)
}

const fn rtt_kind(kind: RttKind) -> Value {
    match kind {
        RttKind::Measured => value("measured", "One sample for each round trip.", ""),
        RttKind::Smoothed => value(
            "smoothed",
            "The kernel's running average, once a round trip (kernels before 6.10) or once a socket dump (without eBPF).",
            "Its percentiles are lower than those of single round trips.",
        ),
    }
}

const fn role(role: Role) -> Value {
    match role {
        Role::Client => value("client", "This end called connect().", ""),
        Role::Server => value("server", "This end accepted the connection.", ""),
        Role::Unknown => value(
            "unknown",
            "The handshake was not seen, and the counts do not show the role.",
            "",
        ),
    }
}

const EXPORT_ERRORS: [Value; 4] = [
    value(
        "too_large",
        "The receiver refuses an export of this size, though it holds a single item.",
        "Raise the receiver's limit on the size of a request.",
    ),
    value(
        "rejected",
        "The receiver took the export and rejected some of its items.",
        "Read the receiver's message in flowcar's log.",
    ),
    value(
        "failure",
        "The export failed and may succeed when it is retried.",
        "Check the receiver and the path to it.",
    ),
    value(
        "refused",
        "The receiver refused the export permanently.",
        "Read the receiver's message in flowcar's log; check endpoint, protocol and credentials.",
    ),
];

const CAUSES: [Value; 6] = [
    value(
        "syn",
        "A SYN was sent again.",
        "As for attempts with `error.type=timeout`.",
    ),
    value(
        "synack",
        "A SYN-ACK was sent again: it, or the client's answer, was lost.",
        "Check for loss; many from many clients are a SYN flood.",
    ),
    value(
        "fast",
        "The peer's acknowledgements showed a loss.",
        "Check for loss on the path.",
    ),
    value(
        "timeout",
        "The retransmission timer expired.",
        "Check for loss on the path, or a peer that is stalled.",
    ),
    value(
        "tail_loss_probe",
        "The last segments sent were not acknowledged in time (RFC 8985).",
        "Check for loss on the path; some probes are sent without a loss.",
    ),
    value(
        "unknown",
        "The type is unknown: without eBPF, or because the kernel refused memory.",
        "",
    ),
];

const LIMITS: [Value; 2] = [
    value(
        "receive_window",
        "The peer's window was full: its application reads too slowly, or its receive buffer is small.",
        "Check the peer's application and its receive buffer.",
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

const TRANSPORTS: [Value; 1] = [value("tcp", "TCP; flowcar follows nothing else.", "")];

const NETWORK_TYPES: [Value; 2] = [
    value("ipv4", "IPv4, also over an IPv6 socket.", ""),
    value("ipv6", "IPv6.", ""),
];

const CPU_MODES: [Value; 2] = [
    value("user", "In the container's own code.", ""),
    value("system", "In the kernel, for the container.", ""),
];

const DISK_IO_DIRECTIONS: [Value; 2] = [
    value("read", "From a block device.", ""),
    value("write", "To a block device.", ""),
];

const FAULT_TYPES: [Value; 2] = [
    value("minor", "The page was in memory, or is new.", ""),
    value("major", "The page was read from a disk.", ""),
];

const fn pressure_resource(of: PressureResource) -> Value {
    let (meaning, remedy) = match of {
        PressureResource::Cpu => (
            "Tasks were ready to run, and had no CPU; those that a CPU limit throttled, too.",
            "Raise the container's CPU limit or request, or find what else uses the node's CPUs.",
        ),
        PressureResource::Memory => (
            "Tasks waited for memory to be taken back, or for pages that had been.",
            "Raise the container's memory limit, or find what else uses the node's memory.",
        ),
        PressureResource::Io => (
            "Tasks waited for I/O.",
            "Check the devices of the container's volumes, and what else uses them.",
        ),
    };
    value(of.name(), meaning, remedy)
}

const fn stall(stall: Stall) -> Value {
    let meaning = match stall {
        Stall::Some => "At least one task waited.",
        Stall::Full => "All tasks that were not idle waited at the same time. Part of `some`.",
    };
    value(stall.name(), meaning, "")
}

const fn adopted_by(by: AdoptedBy) -> Value {
    match by {
        AdoptedBy::Startup => value(
            "startup",
            "The connection was open when flowcar began to follow, or when the followed cgroup was recreated.",
            "",
        ),
        AdoptedBy::Restart => value(
            "restart",
            "The connection was open when flowcar began to follow, and the flowcar before it had counted it as opened or adopted.",
            "To count each connection once across restarts, count `startup` only.",
        ),
    }
}

const SOURCES: [Value; 2] = [
    value(
        "ebpf",
        "eBPF programs on the cgroup, and socket dumps beside them where the kernel gives them.",
        "",
    ),
    value(
        "inet_diag",
        "Socket dumps and the kernel's close events, without eBPF: no handshake is seen, and each dump gives one smoothed RTT.",
        "`flowcar check` reports what prevents eBPF.",
    ),
];

const COMPONENTS: [Value; 8] = [
    value("otlp_grpc_metric_exporter", "Metrics over gRPC.", ""),
    value("otlp_http_metric_exporter", "Metrics over HTTP.", ""),
    value("otlp_grpc_span_exporter", "Spans over gRPC.", ""),
    value("otlp_http_span_exporter", "Spans over HTTP.", ""),
    value(
        "batching_span_processor",
        "The queue of spans that wait to be sent.",
        "",
    ),
    value("otlp_grpc_log_exporter", "Log records over gRPC.", ""),
    value("otlp_http_log_exporter", "Log records over HTTP.", ""),
    value(
        "batching_log_processor",
        "The queue of log records that wait to be sent.",
        "",
    ),
];

fn unused(reason: Unused) -> Value {
    let name = reason.name();
    match reason {
        Unused::Malformed => value(
            name,
            "It is no DNS message, or a part of one is missing.",
            "",
        ),
        Unused::Unasked => value(
            name,
            "An answer to a query that this pod did not send, that was answered before, or that was sent more than 30 seconds before.",
            "Many: somebody sends forged answers to the pod, or its queries leave by another address than answers come from (docs/limits.md).",
        ),
        Unused::Truncated => value(
            name,
            "The answer did not fit into its packet, or into the copy (4096 bytes), or has more labels than are read. Addresses that were read are used.",
            "",
        ),
    }
}

fn unnamed(reason: NoName) -> Value {
    let name = reason.name();
    match reason {
        NoName::NeverAsked => value(
            name,
            "No answer named the address: the application has it from a setting, asked by DNS over TLS or HTTPS, or asked before flowcar followed.",
            "",
        ),
        NoName::Expired => value(
            name,
            "The name was no longer valid when the connection was opened: the application keeps addresses longer than the answer allows.",
            "Java: lower networkaddress.cache.ttl.",
        ),
        NoName::SeveralNames => value(
            name,
            "Two names or more stand for the address, as behind a shared load balancer.",
            "",
        ),
        NoName::Forgotten => value(
            name,
            "A name of the address, or of one that shares its place in a table, made room: the pod asked for more pairs of a name and an address than flowcar keeps (8192, and 8 of one address).",
            "The pod asks for very many names: set FLOWCAR_PEER=address or prefix.",
        ),
    }
}

fn unresolved(reason: Unresolved) -> Value {
    let name = reason.name();
    match reason {
        Unresolved::NoCgroup => value(
            name,
            "Nothing shows the cgroup of the socket: the call of `connect()` or `listen()` was not seen, its record was lost, or containers that share the port took the connection.",
            "",
        ),
        Unresolved::NotInTree => value(
            name,
            "The cgroup's directory was removed before flowcar read it, or is not below the followed one.",
            "",
        ),
        Unresolved::NoTree => value(
            name,
            "The node's cgroup tree is not mounted in the pod, or the pod's cgroup is not found in it.",
            "Mount the tree (the injector does so with the eBPF source), or set FLOWCAR_CONTAINER=off.",
        ),
    }
}

const RECORD_KINDS: [Value; 11] = [
    value(
        "open",
        "eBPF: a connection was established.",
        "Later records make up for dropped ones.",
    ),
    value(
        "sample",
        "eBPF: an open connection.",
        "Later records make up for dropped ones.",
    ),
    value(
        "close",
        "eBPF: a connection closed, or an attempt failed.",
        "A dropped one is a lost connection: raise FLOWCAR_RING_BYTES.",
    ),
    value(
        "failed",
        "eBPF, dropped records only: an attempt failed.",
        "Raise FLOWCAR_RING_BYTES.",
    ),
    value(
        "detail",
        "eBPF, dropped records only: samples for which the kernel refused memory.",
        "As for `socket_storage`.",
    ),
    value("exchange", "eBPF: the exchanges of a connection.", ""),
    value(
        "asked",
        "eBPF: a client connects to another address than its application asked for.",
        "Of dropped ones `server.address` is the peer's, and such an attempt is not counted where it fails before its SYN: raise FLOWCAR_RING_BYTES.",
    ),
    value(
        "dns",
        "eBPF: a DNS message that the pod sent or received.",
        "Of dropped ones names are missing: raise FLOWCAR_RING_BYTES.",
    ),
    value(
        "origin",
        "eBPF: a socket that listens, or a process that connects for the first time.",
        "Of dropped ones servers' connections have no process and may have no container: raise FLOWCAR_RING_BYTES.",
    ),
    value("poll", "inet_diag: a socket in a socket dump.", ""),
    value(
        "destroy",
        "inet_diag: a socket closed.",
        "Connections lost with dropped ones are `flowcar.tcp.lost.reason=destroy_overrun`.",
    ),
];

const SOCKETS: [Value; 2] = [
    value("followed", "In the followed cgroup.", ""),
    value("other", "In another cgroup.", ""),
];

const REASONS: [Value; 6] = [
    value(
        "too_large",
        "The receiver refuses an export of this size, though it holds a single item.",
        "Raise the receiver's limit on the size of a request.",
    ),
    value(
        "rate_limit",
        "More spans, or more log records, in a second than FLOWCAR_SPANS_PER_SECOND; those sent stand for them, by `flowcar.sample.probability`.",
        "Raise FLOWCAR_SPANS_PER_SECOND if the receiver can take more.",
    ),
    value(
        "queue_full",
        "More spans, or more log records, waited than FLOWCAR_SPAN_QUEUE or FLOWCAR_SPAN_QUEUE_BYTES allow.",
        "Check why the receiver does not take them.",
    ),
    value(
        "expired",
        "The receiver did not take the span or the log record for 15 minutes.",
        "Check the receiver.",
    ),
    value(
        "refused",
        "The receiver refused the export that the span or the log record was in.",
        "Read the receiver's message in flowcar's log.",
    ),
    value(
        "shutdown",
        "flowcar ended before the receiver took the span or the log record.",
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
    use crate::otlp::names::ATTRIBUTES;

    #[test]
    fn description_that_names_a_value_names_all() {
        let quoted = |value: &Value| format!("`{}`", value.name);
        for Attribute { name, values, .. } in all() {
            let described = ATTRIBUTES.iter().find(|(of, ..)| *of == name);
            let (.., description) = described.expect("an attribute");
            let missing: Vec<_> = values
                .iter()
                .filter(|value| !description.contains(&quoted(value)))
                .map(|value| value.name)
                .collect();
            let none = missing.len() == values.len();
            assert!(
                none || missing.is_empty(),
                "{name}: {missing:?} {description}"
            );
        }
    }

    #[test]
    fn values_are_listed_once_with_a_meaning() {
        for Attribute { name, on, values } in all() {
            let mut seen = BTreeSet::new();
            for value in values {
                assert!(seen.insert(value.name), "{name} {value:?}");
                assert!(value.meaning.ends_with('.'), "{name} {value:?}");
                assert!(is_known(name, value.name));
            }
            assert!(!seen.is_empty() && !on.is_empty());
        }
        assert!(!is_known(attribute::RETRANSMIT_TYPE, "nobody"));
        assert!(is_known(attribute::PEER_ADDRESS, "10.0.0.1"));
    }
}
