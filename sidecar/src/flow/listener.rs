//! What is known of the listening sockets of one port.

/// The listening sockets of one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// `flowcar.tcp.listener.drops`: cumulative
    pub drops: u64,
    /// `flowcar.tcp.listener.queue.size`: connections that waited to be accepted at the last poll
    pub waiting: u64,
    /// `flowcar.tcp.listener.queue.capacity`: how many may wait
    pub limit: u64,
}
