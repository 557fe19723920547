//! What closes connections and fails attempts, and what is lost.

use super::{Value, value};
use crate::flow::{CloseReason, Failure, Lost};

pub(super) const fn close_reason(reason: CloseReason) -> Value {
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

pub(super) const fn failure(failure: Failure) -> Value {
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

pub(super) const fn lost(lost: Lost) -> Value {
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
