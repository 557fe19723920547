//! From the bytes of a DNS message (RFC 1035 section 4) to what names need of it.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use hickory_proto::{
    op::{Header, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
    serialize::binary::{BinDecodable as _, BinDecoder, DecodeError},
};

/// Characters of a name at most (RFC 1035 section 2.3.4: 255 bytes, two of which are no characters).
const MOST_CHARACTERS: usize = 253;

/// Aliases in a row at most. Resolvers follow fewer.
const MOST_ALIASES: usize = 32;

/// Labels of names that are read of an answer: some microseconds for a hundred. A Kubernetes service of a thousand addresses has fewer; an
/// answer by TCP has room for half a million.
const MOST_LABELS: usize = 8_192;

/// The most labels of a name (RFC 1035 section 2.3.4).
const MOST_LABELS_OF_A_NAME: usize = 127;

/// What a message is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The message's id.
    pub(super) id: u16,
    /// The type of the records that are asked for.
    pub(super) kind: u16,
    /// In lower case, without the dot at its end.
    pub(super) name: String,
}

/// A message about one name of the Internet class.
pub(super) enum Message<'a> {
    /// Somebody asks for a name.
    Query(Question),
    /// The answer for a name.
    Answer {
        /// The same as in the query.
        question: Question,
        /// What is answered.
        records: Records<'a>,
    },
}

/// The records of an answer, which are not read yet.
pub(super) struct Records<'a> {
    decoder: BinDecoder<'a>,
    header: Header,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The addresses, and for how long.
    pub(super) addresses: Vec<(IpAddr, Duration)>,
    /// Whether there are more: the resolver had no room for them, or they were not read.
    pub(super) is_truncated: bool,
}

impl<'a> Message<'a> {
    /// Reads a message, of an answer only the question; `None` if it is malformed, or about anything but one name.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).ok()?;
        if header.counts.queries != 1 || header.metadata.op_code != OpCode::Query {
            return None;
        }
        let query = Query::read(&mut decoder).ok()?;
        if query.query_class != DNSClass::IN {
            return None;
        }
        let question = Question {
            id: header.metadata.id,
            kind: query.query_type.into(),
            name: text(&query.name).filter(|name| name.len() <= MOST_CHARACTERS)?,
        };
        Some(match header.metadata.message_type {
            MessageType::Query => Self::Query(question),
            MessageType::Response => Self::Answer {
                question,
                records: Records { decoder, header },
            },
        })
    }
}

impl Records<'_> {
    /// Reads the addresses behind the name that was asked for; `None` if a record is malformed.
    pub(super) fn addresses(mut self, asked: &Question) -> Option<Found> {
        let (records, is_whole) = self.read().ok()?;
        let addresses = match self.header.metadata.response_code {
            // A name that reads as an address would be taken for one.
            ResponseCode::NoError if asked.name.parse::<IpAddr>().is_err() => {
                addresses(asked, &records)
            }
            _ => Vec::new(),
        };
        Some(Found {
            addresses,
            is_truncated: self.header.metadata.truncation || !is_whole,
        })
    }

    /// The records, as many as there are labels for, and whether these are all.
    fn read(&mut self) -> Result<(Vec<Record>, bool), DecodeError> {
        let mut records = Vec::new();
        let mut labels = 0;
        for _ in 0..self.header.counts.answers {
            if labels >= MOST_LABELS {
                return Ok((records, false));
            }
            let record = Record::read(&mut self.decoder)?;
            let of = |name: &Name| name.iter().count().max(1);
            let owner = of(&record.name);
            labels += match &record.data {
                RData::A(_) | RData::AAAA(_) => owner,
                RData::CNAME(rdata::CNAME(to)) => owner + of(to),
                // There may be names in it.
                _ => owner + 2 * MOST_LABELS_OF_A_NAME,
            };
            records.push(record);
        }
        Ok((records, true))
    }
}

/// The addresses behind a name, through its aliases. An address holds no longer than the aliases that lead to it.
fn addresses(asked: &Question, records: &[Record]) -> Vec<(IpAddr, Duration)> {
    let mut aliases = HashMap::new();
    let mut found = Vec::new();
    // The client takes no others.
    let is_wanted = |kind: RecordType| match RecordType::from(asked.kind) {
        asked @ (RecordType::A | RecordType::AAAA) => kind == asked,
        _ => true,
    };
    for record in records.iter().filter(|of| of.dns_class == DNSClass::IN) {
        let address = match &record.data {
            RData::CNAME(rdata::CNAME(to)) => {
                if let (Some(owner), Some(to)) = (text(&record.name), text(to)) {
                    aliases.entry(owner).or_insert((to, record.ttl));
                }
                continue;
            }
            RData::A(rdata::A(address)) if is_wanted(RecordType::A) => IpAddr::from(*address),
            RData::AAAA(rdata::AAAA(address)) if is_wanted(RecordType::AAAA) => {
                IpAddr::from(*address).to_canonical()
            }
            _ => continue,
        };
        found.extend(text(&record.name).map(|owner| (owner, address, record.ttl)));
    }
    let asked = asked.name.as_str();
    let mut reached = HashMap::from([(asked, u32::MAX)]);
    let mut last = (asked, u32::MAX);
    for _ in 0..MOST_ALIASES {
        let Some((to, ttl)) = aliases.get(last.0) else {
            break;
        };
        last = (to.as_str(), last.1.min(*ttl));
        // A circle ends here.
        if reached.contains_key(last.0) {
            break;
        }
        reached.insert(last.0, last.1);
    }
    let behind = found.iter().filter_map(|(owner, address, ttl)| {
        let ttl = reached.get(owner.as_str())?.min(ttl);
        Some((*address, Duration::from_secs(u64::from(*ttl))))
    });
    behind.collect()
}

/// In lower case, because some resolvers' clients mix cases against forgery, and without the dot at its end. What is no letter, digit or
/// punctuation is escaped (RFC 4343 section 2.1). `None` for the root.
fn text(name: &Name) -> Option<String> {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    (!text.is_empty()).then_some(text)
}
