//! DNS messages, byte by byte (RFC 1035 section 4).

use std::net::IpAddr;

pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const AAAA: u16 = 28;

/// Bits of a message's flags: it is an answer; it is truncated; recursion is desired, and available.
const ANSWER: u16 = 1 << 15;
const TRUNCATED: u16 = 1 << 9;
const RECURSION: u16 = 1 << 8 | 1 << 7;

/// The option record of EDNS (RFC 6891 section 6.1.2): the root, type 41, 1,232 bytes by UDP, and a cookie (RFC 7873) of eight.
const EDNS: [u8; 23] = [
    0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8,
];

/// A query, or an answer to one.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) id: u16,
    pub(crate) name: String,
    pub(crate) kind: u16,
    pub(crate) records: Vec<(String, u32, Data)>,
    pub(crate) is_answer: bool,
    pub(crate) is_truncated: bool,
    pub(crate) has_edns: bool,
}

/// What a record says of its owner.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    Address(IpAddr),
    Alias(String),
}

pub(crate) fn query(id: u16, name: &str, kind: u16) -> Message {
    Message {
        id,
        name: name.to_owned(),
        kind,
        records: Vec::new(),
        is_answer: false,
        is_truncated: false,
        has_edns: false,
    }
}

impl Message {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut flags = RECURSION;
        flags |= if self.is_answer { ANSWER } else { 0 };
        flags |= if self.is_truncated { TRUNCATED } else { 0 };
        let (answers, more) = (self.records.len() as u16, u16::from(self.has_edns));
        let mut bytes = [self.id, flags, 1, answers, 0, more]
            .map(u16::to_be_bytes)
            .concat();
        bytes.extend(labels(&self.name));
        bytes.extend([self.kind, 1].map(u16::to_be_bytes).concat());
        for (owner, ttl, data) in &self.records {
            // The name of the question is compressed, as resolvers do (RFC 1035 section 4.1.4).
            if *owner == self.name {
                bytes.extend([0xc0, 12]);
            } else {
                bytes.extend(labels(owner));
            }
            let (kind, data) = match data {
                Data::Address(IpAddr::V4(ip)) => (A, ip.octets().to_vec()),
                Data::Address(IpAddr::V6(ip)) => (AAAA, ip.octets().to_vec()),
                Data::Alias(name) => (CNAME, labels(name)),
            };
            bytes.extend([kind, 1].map(u16::to_be_bytes).concat());
            bytes.extend(ttl.to_be_bytes());
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(data);
        }
        bytes.extend(self.has_edns.then_some(EDNS).into_iter().flatten());
        bytes
    }

    /// Reads a query: its id, name and type, and whether it has an option record.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let mut name = String::new();
        let mut at = 12;
        while bytes[at] != 0 {
            let label = &bytes[at + 1..][..usize::from(bytes[at])];
            name = format!("{name}{}.", String::from_utf8_lossy(label));
            at += 1 + label.len();
        }
        let mut message = query(word(0), name.trim_end_matches('.'), word(at + 1));
        message.has_edns = word(10) > 0;
        message
    }
}

fn labels(name: &str) -> Vec<u8> {
    let labels = name
        .split('.')
        .map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([vec![0]]).flatten().collect()
}
