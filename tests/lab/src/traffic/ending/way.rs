//! The ways in which a connection closes.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How a connection closes, once each end has sent 100 bytes. "Cut" means that no segment arrives any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Way {
    /// Cut; both ends probe with keepalive.
    Keepalive,
    /// The same, and TCP_USER_TIMEOUT ends it before the probes are used up.
    KeepaliveUserTimeout,
    /// Cut; the client sends more, and its TCP_USER_TIMEOUT passes. The server probes.
    UserTimeout,
    /// Cut; the client sends more until its retries are used up. The server probes.
    Retransmission,
    /// The server does not read, so that its window is shut, until the client's TCP_USER_TIMEOUT passes. Then it closes.
    ZeroWindowUserTimeout,
    /// The server does not read, then cut: the client's window probes are used up. The server probes.
    ZeroWindowCut,
    /// The client sends its FIN, the server answers, then cut; both ends probe.
    HalfClosedKeepalive,
    /// Cut; the client closes, so that its FIN is sent again until its retries are used up. The server probes.
    OrphanInFinWait1,
    /// The client closes; cut; the server closes, and its FIN is sent again until its retries are used up.
    OrphanInLastAck,
    /// The client closes; the server goes on. The client's FIN_WAIT2 ends by its timer; then the server closes.
    FinWait2Timer,
    /// The client sends more and its FIN, the server answers, and closes with the rest unread: a RST.
    HalfClosedThenUnread,
    /// The client sends its FIN, the server answers and resets.
    HalfClosedThenReset,
    /// The client sends its FIN, and the server resets without an answer.
    HalfClosedThenResetInSilence,
    /// The client sends its FIN, the server answers and closes.
    HalfClosedInOrder,
    /// The client sends its FIN, and the server closes without an answer.
    HalfClosedInSilence,
    /// The client sends its FIN and closes; the server answers nothing and closes later.
    HalfClosedThenClosed,
    /// The server closes; the client sends more to what the server's socket left, as a close_notify of TLS, and is answered by a RST.
    ClosedThenNotified,
    /// The server closes, and the client resets.
    ClosedThenReset,
    /// The server sends its FIN, and the client answers and resets.
    ServerHalfClosedThenReset,
    /// The server sends its FIN, and the client resets without an answer.
    ServerHalfClosedThenResetInSilence,
    /// The client resets (SO_LINGER of 0).
    ResetByClient,
    /// The server resets.
    ResetByServer,
    /// The client closes with something unread.
    UnreadByClient,
    /// The server resets, and the client holds its socket for a while.
    HeldAfterReset,
    /// The client sends its FIN, the server answers and closes, and the client holds its socket for a while before it reads.
    HeldAfterAnswer,
    /// The client disconnects its socket (connect(2) with AF_UNSPEC).
    Disconnected,
    /// Cut; the server resets; then not cut any more: the client's probe is answered by a RST.
    ProbeAnsweredByReset,
    /// Cut; both close; then not cut any more: their FINs cross, so that both ends pass through CLOSING.
    ClosedAtOnce,
    /// The client closes with TCP_LINGER2 of -1, so that its socket is removed once its FIN is acknowledged. Then the server
    /// closes, and is answered by a RST.
    ClosedWithoutFinWait2,
    /// An operator destroys the client's socket (`ss -K`).
    ClientDestroyed,
    /// An operator destroys the server's socket.
    ServerDestroyed,
    /// The client sends its FIN, the server answers, and an operator destroys the client's socket.
    HalfClosedThenClientDestroyed,
    /// The client sends its FIN, and an operator destroys the server's socket.
    HalfClosedThenServerDestroyed,
    /// Cut; an operator destroys the client's socket. The server probes.
    ClientDestroyedInSilence,
    /// The server answers and closes, and the client resets.
    AnsweredThenReset,
    /// The client shuts both directions down (shutdown(2) with SHUT_RDWR). The server answers all the same, and is answered by a RST.
    ShutDownThenAnswered,
    /// Cut; the client closes while the machine may have no more orphans (`net.ipv4.tcp_max_orphans`, which the test has set before).
    /// The server probes.
    TooManyOrphans,
}
