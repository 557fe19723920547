//! What flowcar reports of itself: sources, records, exports.

use super::{Value, value};

pub(super) const EXPORT_ERRORS: [Value; 4] = [
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

pub(super) const SOURCES: [Value; 2] = [
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

pub(super) const COMPONENTS: [Value; 8] = [
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

pub(super) const RECORD_KINDS: [Value; 11] = [
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

pub(super) const SOCKETS: [Value; 2] = [
    value("followed", "In the followed cgroup.", ""),
    value("other", "In another cgroup.", ""),
];

pub(super) const REASONS: [Value; 6] = [
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
