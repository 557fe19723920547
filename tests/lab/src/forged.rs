//! TCP segments that no socket sent.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Flags of a TCP header (RFC 9293 section 3.1).
pub const SYN: u8 = 1 << 1;
/// As [`SYN`].
pub const RST: u8 = 1 << 2;
/// As [`SYN`].
pub const ACK: u8 = 1 << 4;

/// A number that no connection of a test expects as a sequence number or as its acknowledgement, but for one in thousands.
const UNEXPECTED: u32 = 0x1234_5678;

/// Sends a segment without payload as if it came from `from`, with a sequence number and an acknowledgement that the connection does not
/// expect.
///
/// # Errors
/// This thread may not send raw packets, or they have no route.
pub fn send_forged(from: SocketAddrV4, to: SocketAddrV4, flags: u8) -> io::Result<()> {
    const WORDS: u8 = 5;
    let mut header = Vec::new();
    header.extend(from.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    header.extend(UNEXPECTED.to_be_bytes());
    let acknowledged = if flags & ACK == 0 { 0 } else { UNEXPECTED };
    header.extend(acknowledged.to_be_bytes());
    header.extend([WORDS << 4, flags]);
    // The window; its checksum and urgent pointer are zero so far.
    header.extend(u16::MAX.to_be_bytes());
    header.extend([0; 4]);
    let checksum = checksum(*from.ip(), *to.ip(), &header);
    header[16..18].copy_from_slice(&checksum.to_be_bytes());
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((*from.ip(), 0)).into())?;
    socket.send_to(&header, &SocketAddr::from((*to.ip(), 0)).into())?;
    Ok(())
}

/// Of a segment of an even number of bytes over IPv4 (RFC 9293 section 3.1, RFC 1071).
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let length = u16::try_from(segment.len()).expect("a short segment");
    let mut bytes = [from.octets(), to.octets()].concat();
    bytes.extend([0, 6]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(segment);
    let words = bytes.chunks_exact(2);
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
