//! What listening sockets drop, and how many connections wait to be accepted.
//!
//! A listener whose accept queue is full drops SYNs and the ACKs that end a handshake (net/ipv4/tcp_ipv4.c,
//! tcp_v4_syn_recv_sock; tcp_input.c, tcp_conn_request): the client waits for a retransmission, and nothing at the
//! server shows why. The kernel counts them at the socket (`sk_drops`): a SYN once; the last ACK of a handshake twice, in
//! tcp_v4_syn_recv_sock and once more in tcp_v4_rcv, which so counts a SYN that is sent again, too.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::flow::{Listener, SocketSnapshot};

/// Ports that are reported separately; more are reported together.
const MOST_PORTS: usize = 256;

/// The followed listeners, and their figures by port.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// Whether a dump was seen: what a listener dropped before the first is not reported.
    began: bool,
    /// Drops of each listener at the last dump, by cookie.
    drops: HashMap<u64, u32>,
    seen: HashMap<u64, u32>,
    ports: BTreeMap<Option<u16>, Listener>,
    /// Ports that this dump or the last one has shown.
    now: HashSet<u16>,
}

impl Listeners {
    /// A dump begins.
    pub(super) fn begin(&mut self) {
        self.seen.clear();
        self.now.clear();
        for figures in self.ports.values_mut() {
            (figures.waiting, figures.limit) = (0, 0);
        }
    }

    /// A followed listener of the dump.
    pub(super) fn saw(&mut self, observed: &SocketSnapshot) {
        let Some(drops) = observed.drops else { return };
        let first = if self.began { 0 } else { drops };
        let before = self.drops.get(&observed.cookie).copied().unwrap_or(first);
        self.seen.insert(observed.cookie, drops);
        self.now.insert(observed.local.port());
        let port = Some(observed.local.port());
        let known = self.ports.contains_key(&port) || self.ports.len() < MOST_PORTS;
        let figures = self.ports.entry(port.filter(|_| known)).or_default();
        figures.drops += u64::from(drops.wrapping_sub(before));
        // Of a listener these are its accept queue and that queue's limit (net/ipv4/inet_diag.c, tcp_diag_get_info).
        figures.waiting += u64::from(observed.unread);
        figures.limit += u64::from(observed.unacknowledged);
    }

    /// The dump is complete.
    pub(super) fn end(&mut self) {
        self.began = true;
        std::mem::swap(&mut self.drops, &mut self.seen);
    }

    /// Whether the last dump has shown one at this port.
    pub(super) fn is_at(&self, port: u16) -> bool {
        self.now.contains(&port)
    }

    /// By port; under `None` all over the limit.
    pub(super) const fn ports(&self) -> &BTreeMap<Option<u16>, Listener> {
        &self.ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::State;

    fn observed(cookie: u64, port: u16, drops: u32) -> SocketSnapshot {
        SocketSnapshot {
            cookie,
            local: ([0, 0, 0, 0], port).into(),
            peer: ([0, 0, 0, 0], 0).into(),
            interface: 0,
            state: State::Listen,
            unread: 2,
            unacknowledged: 5,
            cgroup: None,
            info: None,
            drops: Some(drops),
        }
    }

    fn dump(
        listeners: &mut Listeners,
        observed_sockets: &[SocketSnapshot],
    ) -> BTreeMap<Option<u16>, Listener> {
        listeners.begin();
        for observed in observed_sockets {
            listeners.saw(observed);
        }
        listeners.end();
        listeners.ports().clone()
    }

    #[test]
    fn drops_are_counted_from_the_first_dump_on() {
        let mut listeners = Listeners::default();
        let drops = |ports: &BTreeMap<_, Listener>, port| ports[&Some(port)].drops;
        let ports = dump(&mut listeners, &[observed(1, 80, 1000)]);
        assert_eq!(drops(&ports, 80), 0, "it dropped them before");
        // A second worker on the port, whose drops are all new.
        let ports = dump(&mut listeners, &[observed(1, 80, 1003), observed(2, 80, 4)]);
        assert_eq!(drops(&ports, 80), 7);
        assert_eq!((ports[&Some(80)].waiting, ports[&Some(80)].limit), (4, 10));
        // Closed: its drops stay counted.
        let ports = dump(&mut listeners, &[]);
        assert_eq!(drops(&ports, 80), 7);
        assert_eq!(ports[&Some(80)].limit, 0);
        let ports = dump(&mut listeners, &[observed(3, 80, u32::MAX)]);
        let ports_after = dump(&mut listeners, &[observed(3, 80, 1)]);
        assert_eq!(drops(&ports_after, 80), drops(&ports, 80) + 2, "it wrapped");
    }

    #[test]
    fn ports_over_the_limit_are_reported_together() {
        let mut listeners = Listeners::default();
        dump(&mut listeners, &[]);
        let all: Vec<_> = (0..300).map(|n| observed(n, 1000 + n as u16, 1)).collect();
        let ports = dump(&mut listeners, &all);
        assert_eq!(ports.len(), MOST_PORTS + 1);
        assert_eq!(ports[&None].drops, 300 - MOST_PORTS as u64);
        assert_eq!(ports.values().map(|of| of.drops).sum::<u64>(), 300);
        assert!(listeners.is_at(1299));
        dump(&mut listeners, &[]);
        assert!(!listeners.is_at(1299));
    }
}
