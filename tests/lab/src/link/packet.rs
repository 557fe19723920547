use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// The headers of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpSummary {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// Sequence number of the first byte (or of the SYN).
    pub seq: u32,
    /// Acknowledgement number; without meaning when [`TcpSummary::ack_flag`] is not set.
    pub ack: u32,
    /// Window as it is on the wire, not scaled.
    pub window: u16,
    /// Bytes of payload.
    pub payload: u32,
    /// The SYN flag.
    pub syn: bool,
    /// The ACK flag.
    pub ack_flag: bool,
    /// The FIN flag.
    pub fin: bool,
    /// The RST flag.
    pub rst: bool,
}

// === impl TcpSummary ===

impl TcpSummary {
    /// Reads an IP packet; `None` when it is not a whole TCP segment.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ip(packet).ok()?;
        let (source, destination): (IpAddr, IpAddr) = match sliced.net? {
            NetSlice::Ipv4(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Ipv6(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Arp(_) => return None,
        };
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
            return None;
        };
        Some(Self {
            source: (source, tcp.source_port()).into(),
            destination: (destination, tcp.destination_port()).into(),
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            window: tcp.window_size(),
            payload: u32::try_from(tcp.payload().len()).ok()?,
            syn: tcp.syn(),
            ack_flag: tcp.ack(),
            fin: tcp.fin(),
            rst: tcp.rst(),
        })
    }

    /// A client's SYN.
    pub fn is_syn(&self) -> bool {
        self.syn && !self.ack_flag
    }

    /// A server's SYN-ACK.
    pub fn is_syn_ack(&self) -> bool {
        self.syn && self.ack_flag
    }

    /// Carries payload.
    pub fn is_data(&self) -> bool {
        self.payload > 0
    }

    /// Only acknowledges (or probes): no payload and none of SYN, FIN, RST.
    pub fn is_pure_ack(&self) -> bool {
        self.ack_flag && self.payload == 0 && !self.syn && !self.fin && !self.rst
    }

    /// The sequence number after this segment; SYN and FIN take one each (RFC 9293, 3.4).
    pub fn end_seq(&self) -> u32 {
        self.seq
            .wrapping_add(self.payload + u32::from(self.syn) + u32::from(self.fin))
    }

    /// Whether either end has this port.
    pub fn has_port(&self, port: u16) -> bool {
        self.source.port() == port || self.destination.port() == port
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn parses_packets_of_another_writer() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(4000, 80, 0xffff_fffe, 512)
            .ack(77)
            .fin()
            .write(&mut packet, b"abc")
            .unwrap();
        let tcp = TcpSummary::parse(&packet).unwrap();
        assert_eq!(tcp.source, "10.0.0.1:4000".parse().unwrap());
        assert_eq!(tcp.destination, "10.0.0.2:80".parse().unwrap());
        assert_eq!(
            (tcp.seq, tcp.ack, tcp.window, tcp.payload),
            (0xffff_fffe, 77, 512, 3)
        );
        assert!(tcp.is_data() && tcp.fin && !tcp.is_pure_ack() && !tcp.is_syn());
        assert_eq!(tcp.end_seq(), 2, "wraps");
    }

    #[test]
    fn ipv6_handshake_segments_are_distinguished() {
        let segment = |ack| {
            let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64)
                .tcp(1, 2, 9, 512)
                .syn();
            let builder = if ack { builder.ack(3) } else { builder };
            let mut packet = Vec::new();
            builder.write(&mut packet, &[]).unwrap();
            TcpSummary::parse(&packet).unwrap()
        };
        assert!(segment(false).is_syn() && !segment(false).is_syn_ack());
        assert!(segment(true).is_syn_ack() && !segment(true).is_syn());
        assert_eq!(segment(false).end_seq(), 10);
    }

    #[test]
    fn other_packets_are_not_tcp() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut packet, b"x")
            .unwrap();
        assert_eq!(TcpSummary::parse(&packet), None);
        assert_eq!(TcpSummary::parse(&[0x45, 0]), None);
        assert_eq!(TcpSummary::parse(&[]), None);
    }
}
