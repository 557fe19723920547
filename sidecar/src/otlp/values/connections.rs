//! What connections and their traffic are.

use super::{Value, value};
use crate::flow::{AdoptedBy, Role, RttKind};

pub(super) const fn rtt_kind(kind: RttKind) -> Value {
    match kind {
        RttKind::Measured => value("measured", "One sample for each round trip.", ""),
        RttKind::Smoothed => value(
            "smoothed",
            "The kernel's running average, once a round trip (kernels before 6.10) or once a socket dump (without eBPF).",
            "Its percentiles are lower than those of single round trips.",
        ),
    }
}

pub(super) const fn role(role: Role) -> Value {
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

pub(super) const CAUSES: [Value; 6] = [
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

pub(super) const LIMITS: [Value; 2] = [
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

pub(super) const DIRECTIONS: [Value; 2] = [
    value("transmit", "What this end sent.", ""),
    value("receive", "What this end received.", ""),
];

pub(super) const TRANSPORTS: [Value; 1] = [value("tcp", "TCP; flowcar follows nothing else.", "")];

pub(super) const NETWORK_TYPES: [Value; 2] = [
    value("ipv4", "IPv4, also over an IPv6 socket.", ""),
    value("ipv6", "IPv6.", ""),
];

pub(super) const fn adopted_by(by: AdoptedBy) -> Value {
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
