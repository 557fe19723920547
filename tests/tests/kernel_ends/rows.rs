//! The table: each way in which a connection closes, and the close reason of each end.

use flowcar_tests::traffic::Way;

/// The close reasons that one end may have: by eBPF, by eBPF with packet programs, and by inet_diag alone. More than one
/// reason where a run may go either way, or evidence may be missing.
pub(crate) struct Reported {
    pub(crate) ebpf: &'static [&'static str],
    pub(crate) exchange: &'static [&'static str],
    pub(crate) alone: &'static [&'static str],
}

pub(crate) struct Row {
    pub(crate) way: Way,
    pub(crate) client: Reported,
    pub(crate) server: Reported,
}

const fn reported(
    ebpf: &'static [&'static str],
    exchange: &'static [&'static str],
    alone: &'static [&'static str],
) -> Reported {
    Reported {
        ebpf,
        exchange,
        alone,
    }
}

const fn row(way: Way, client: Reported, server: Reported) -> Row {
    Row {
        way,
        client,
        server,
    }
}

/// The same in each mode.
const fn all(reasons: &'static [&'static str]) -> Reported {
    reported(reasons, reasons, reasons)
}

/// The table.
pub(crate) const fn rows() -> [Row; 35] {
    use Way::{
        AnsweredThenReset, ClientDestroyed, ClientDestroyedInSilence, ClosedAtOnce,
        ClosedThenNotified, ClosedThenReset, ClosedWithoutFinWait2, Disconnected, FinWait2Timer,
        HalfClosedInOrder, HalfClosedInSilence, HalfClosedKeepalive, HalfClosedThenClientDestroyed,
        HalfClosedThenClosed, HalfClosedThenReset, HalfClosedThenResetInSilence,
        HalfClosedThenServerDestroyed, HalfClosedThenUnread, Keepalive, KeepaliveUserTimeout,
        OrphanInFinWait1, OrphanInLastAck, ProbeAnsweredByReset, ResetByClient, ResetByServer,
        Retransmission, ServerDestroyed, ServerHalfClosedThenReset,
        ServerHalfClosedThenResetInSilence, ShutDownThenAnswered, TooManyOrphans, UnreadByClient,
        UserTimeout, ZeroWindowCut, ZeroWindowUserTimeout,
    };
    const TIMEOUT: Reported = reported(&["timeout"], &["timeout"], &["timeout", "unknown"]);
    const LOCAL: Reported = all(&["local_fin"]);
    const PEER: Reported = reported(&["peer_fin"], &["peer_fin"], &["peer_fin", "unknown"]);
    // SO_LINGER of 0 clears the socket's own counts.
    const SENT: Reported = reported(
        &["reset_sent"],
        &["reset_sent"],
        &["reset", "unknown", "lost"],
    );
    // The peer's FIN came first.
    const SENT_BEHIND: Reported = reported(
        &["reset_sent", "peer_fin"],
        &["reset_sent", "peer_fin"],
        &["reset", "peer_fin", "unknown", "lost"],
    );
    const RECEIVED: Reported = reported(
        &["reset", "reset_received"],
        &["reset_received"],
        &["reset", "reset_received", "unknown"],
    );
    // Between two polls only the other end's counts, if it closes at the same time, show that its FIN came (docs/limits.md).
    const UNSEEN: &[&str] = &["peer_fin", "reset", "unknown"];
    // The peer's FIN came first, and then its RST.
    const RECEIVED_BEHIND: Reported = reported(&["peer_fin"], &["peer_fin"], UNSEEN);
    // It closed first, and a RST removed its timewait socket.
    const REMOVED: Reported = reported(&["local_fin"], &["local_fin"], &["local_fin", "unknown"]);
    // SOCK_DESTROY sends a RST (net/ipv4/tcp.c, tcp_abort), and the socket keeps its counts.
    const DESTROYED: Reported = reported(
        &["reset_sent", "reset"],
        &["reset_sent"],
        &["reset", "reset_sent", "unknown"],
    );
    const DESTROYED_BEHIND: Reported = reported(&["peer_fin"], &["peer_fin"], UNSEEN);
    [
        row(Keepalive, TIMEOUT, TIMEOUT),
        row(KeepaliveUserTimeout, TIMEOUT, TIMEOUT),
        row(UserTimeout, TIMEOUT, TIMEOUT),
        row(Retransmission, TIMEOUT, TIMEOUT),
        // Acknowledgements arrive to the last, and other sockets exist: without a poll after them the reason is unknown.
        row(
            ZeroWindowUserTimeout,
            reported(
                &["timeout", "unknown"],
                &["timeout"],
                &["timeout", "unknown"],
            ),
            SENT,
        ),
        row(ZeroWindowCut, TIMEOUT, TIMEOUT),
        row(HalfClosedKeepalive, TIMEOUT, TIMEOUT),
        row(OrphanInFinWait1, TIMEOUT, TIMEOUT),
        row(OrphanInLastAck, LOCAL, TIMEOUT),
        row(FinWait2Timer, LOCAL, PEER),
        row(HalfClosedThenUnread, RECEIVED, SENT_BEHIND),
        row(HalfClosedThenReset, RECEIVED, SENT_BEHIND),
        row(HalfClosedThenResetInSilence, RECEIVED, SENT_BEHIND),
        row(HalfClosedInOrder, LOCAL, PEER),
        row(HalfClosedInSilence, LOCAL, PEER),
        row(HalfClosedThenClosed, LOCAL, PEER),
        row(ClosedThenNotified, RECEIVED_BEHIND, REMOVED),
        row(ClosedThenReset, SENT_BEHIND, REMOVED),
        // Payload came after the last poll, and a RST from elsewhere is in no count (docs/limits.md).
        row(
            ServerHalfClosedThenReset,
            SENT_BEHIND,
            reported(RECEIVED.ebpf, RECEIVED.exchange, &["reset", "unknown"]),
        ),
        row(ServerHalfClosedThenResetInSilence, SENT_BEHIND, RECEIVED),
        row(ResetByClient, SENT, RECEIVED),
        row(ResetByServer, RECEIVED, SENT),
        row(UnreadByClient, SENT, RECEIVED),
        row(
            Disconnected,
            reported(
                &["reset_sent", "reset"],
                &["reset_sent"],
                &["reset", "unknown", "lost"],
            ),
            RECEIVED,
        ),
        row(ProbeAnsweredByReset, RECEIVED, SENT),
        // The order of the two FINs is unknown from the remaining sockets.
        row(ClosedAtOnce, all(&["local_fin"]), all(&["local_fin"])),
        // By inet_diag alone the client's end appears to have closed second, or to have been cut off (docs/limits.md).
        row(
            ClosedWithoutFinWait2,
            reported(
                &["local_fin"],
                &["local_fin"],
                &["local_fin", "peer_fin", "reset", "unknown"],
            ),
            reported(
                &["peer_fin"],
                &["peer_fin"],
                &["peer_fin", "reset", "unknown"],
            ),
        ),
        row(ClientDestroyed, DESTROYED, RECEIVED),
        row(ServerDestroyed, RECEIVED, DESTROYED),
        row(HalfClosedThenClientDestroyed, DESTROYED, RECEIVED_BEHIND),
        row(HalfClosedThenServerDestroyed, RECEIVED, DESTROYED_BEHIND),
        row(ClientDestroyedInSilence, DESTROYED, TIMEOUT),
        row(AnsweredThenReset, SENT_BEHIND, REMOVED),
        row(
            ShutDownThenAnswered,
            reported(
                &["reset", "reset_sent"],
                &["reset_sent"],
                &["reset", "unknown"],
            ),
            RECEIVED_BEHIND,
        ),
        // The limit counts as a timer does (TCPAbortOnMemory), and the kernel sends a RST (net/ipv4/tcp.c, __tcp_close).
        row(
            TooManyOrphans,
            reported(
                &["timeout", "unknown"],
                &["timeout"],
                &["timeout", "unknown", "reset"],
            ),
            TIMEOUT,
        ),
    ]
}
