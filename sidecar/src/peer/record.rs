//! From the bytes of a ring buffer record to a [`Packet`].

use std::{
    mem::offset_of,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use flowcar_shared::dns::{DnsHead, HEAD_LEN, KIND, LARGE, SMALL, flag};

use super::{Packet, Segment, Transport};
use crate::flow::{Malformed, Monotonic};

/// The port of resolvers (RFC 1035 section 4.2).
const PORT: u16 = 53;

impl<'a> Packet<'a> {
    /// Whether a record of the kernel's is of this kind.
    pub fn is_in(bytes: &[u8]) -> bool {
        bytes.get(offset_of!(DnsHead, kind)) == Some(&KIND)
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not a record of this version's kernel programs.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = Malformed::Dns { len: bytes.len() };
        let (head, payload) = bytes.split_at_checked(HEAD_LEN).ok_or(malformed)?;
        let room = payload.len();
        let word = |at: usize| -> [u8; 4] {
            let word = head[at..at + 4].try_into();
            word.expect("four bytes of the head")
        };
        let number = |at| u32::from_ne_bytes(word(at));
        let copied = number(offset_of!(DnsHead, copied)) as usize;
        let flags = head[offset_of!(DnsHead, flags)];
        let known = flags & !(flag::SENT | flag::TCP) == 0;
        if !Self::is_in(bytes) || !known || (room != SMALL && room != LARGE) {
            return Err(malformed);
        }
        let payload = payload.get(..copied).ok_or(malformed)?;
        let at = offset_of!(DnsHead, at_ns);
        let (low, high) = (word(at), word(at + 4));
        let at = [low, high].concat().try_into().expect("eight bytes");
        let mut resolver = [0; 16];
        resolver.copy_from_slice(&head[offset_of!(DnsHead, resolver)..][..16]);
        let resolver = IpAddr::V6(Ipv6Addr::from(resolver)).to_canonical();
        let port = offset_of!(DnsHead, local_port);
        Ok(Self {
            at: Monotonic(u64::from_ne_bytes(at)),
            is_sent: flags & flag::SENT != 0,
            transport: if flags & flag::TCP == 0 {
                Transport::Udp
            } else {
                Transport::Tcp(Segment {
                    sequence: number(offset_of!(DnsHead, sequence)),
                    acknowledged: number(offset_of!(DnsHead, acknowledged)),
                })
            },
            local_port: u16::from_ne_bytes([head[port], head[port + 1]]),
            resolver: SocketAddr::new(resolver, PORT),
            payload,
            is_cut: copied < number(offset_of!(DnsHead, len)) as usize,
        })
    }
}
