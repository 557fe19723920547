//! The control protocol: what another process may ask of a running flowcar, and the form of the answer. Pure.
//!
//! A request is one line, `flowcar/1 QUESTION [name=value]..`. The answer is a line `flowcar/1 ok`, then the question's own form; or one
//! line `flowcar/1 error TEXT`, or `flowcar/1 busy`, after which it may be asked again. Then flowcar closes the connection. Both ends are of one version as a rule: they are in one container.
//! After an upgrade they may differ, and then the answer is the error.

use std::collections::BTreeMap;

use prost::Message;

use super::Health;
use crate::{
    flow::Books,
    view::{Row, Sums, closed::ClosedRow, peers::PeerRow},
};

/// The protocol's name and version, which begins every request and every answer.
pub const VERSION: &str = "flowcar/1";

/// The longest request, bytes.
pub(super) const LONGEST_REQUEST: usize = 256;

/// The most flows in one answer: some 1 MB.
pub const MOST_FLOWS: u32 = 5_000;

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `health`: one word for each of `live`, `started` and `ready` that holds, and lines for people.
    Health,
    /// `peers`: a [`PeerListing`]. Live connections are sampled with their next round trip, for the next answer.
    Peers,
    /// `flows`: a [`Listing`].
    Flows {
        /// `after=N`: only flows with a greater cookie; 0 for all.
        after: u64,
        /// `most=N`: at most so many, those with the least cookies, and never more than [`MOST_FLOWS`]; 0 for the books alone.
        most: u32,
    },
}

/// The books and flows of a running flowcar, as a protobuf message.
#[derive(Clone, PartialEq, Message)]
pub struct Listing {
    /// When, nanoseconds since the Unix epoch.
    #[prost(fixed64, tag = "1")]
    pub at_unix_ns: u64,
    /// `flowcar.source`
    #[prost(string, tag = "2")]
    pub source: String,
    /// Connections opened or adopted.
    #[prost(uint64, tag = "3")]
    pub opened: u64,
    /// Connections closed.
    #[prost(uint64, tag = "4")]
    pub closed: u64,
    /// Connections open.
    #[prost(uint64, tag = "5")]
    pub live: u64,
    /// Attempts that failed.
    #[prost(uint64, tag = "6")]
    pub failed: u64,
    /// Connections lost, by `flowcar.tcp.lost.reason`.
    #[prost(btree_map = "string, uint64", tag = "7")]
    pub lost: BTreeMap<String, u64>,
    /// Flows, by rising cookie.
    #[prost(message, repeated, tag = "8")]
    pub flows: Vec<Row>,
    /// Whether there are more, with greater cookies than the last.
    #[prost(bool, tag = "9")]
    pub more: bool,
    /// Connections that closed last, the newest last: with the last of the flows, and since somebody asks.
    #[prost(message, repeated, tag = "10")]
    pub closed_last: Vec<ClosedRow>,
}

/// The books and the series of a running flowcar, as a protobuf message.
#[derive(Clone, PartialEq, Message)]
pub struct PeerListing {
    /// The books, without flows.
    #[prost(message, required, tag = "1")]
    pub books: Listing,
    /// Every series.
    #[prost(message, repeated, tag = "2")]
    pub peers: Vec<PeerRow>,
}

/// Why a request or an answer cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Another protocol, or another version.
    #[error(
        "the other end does not speak {VERSION}: it is no flowcar, or one of another version. Use the flowcar of the same image"
    )]
    Version,
    /// An unknown question.
    #[error(
        "flowcar is not asked {0:?}: questions are `health`, `peers` and `flows [after=N] [most=N]`"
    )]
    Question(String),
    /// Too many others ask.
    #[error("too many processes ask this flowcar at once: ask again in a moment")]
    Busy,
    /// The other end's own words.
    #[error("{0}")]
    Refused(String),
    /// No listing.
    #[error("the answer is incomplete or damaged: ask again")]
    Damaged,
}

// === impl Question ===

impl Question {
    /// The request, with its end of line.
    pub fn request(self) -> String {
        match self {
            Self::Health => format!("{VERSION} health\n"),
            Self::Peers => format!("{VERSION} peers\n"),
            Self::Flows { after, most } => format!("{VERSION} flows after={after} most={most}\n"),
        }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`ProtocolError::Version`], [`ProtocolError::Question`].
    pub fn read(line: &str) -> Result<Self, ProtocolError> {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some(VERSION) {
            return Err(ProtocolError::Version);
        }
        let unknown = || ProtocolError::Question(line.trim_end().to_owned());
        match words.next() {
            Some("health") if words.next().is_none() => Ok(Self::Health),
            Some("peers") if words.next().is_none() => Ok(Self::Peers),
            Some("flows") => {
                let (mut after, mut most) = (0, MOST_FLOWS);
                for word in words {
                    match word.split_once('=').ok_or_else(unknown)? {
                        ("after", value) => after = value.parse().map_err(|_| unknown())?,
                        ("most", value) => most = value.parse().map_err(|_| unknown())?,
                        _ => return Err(unknown()),
                    }
                }
                let most = most.min(MOST_FLOWS);
                Ok(Self::Flows { after, most })
            }
            _ => Err(unknown()),
        }
    }
}

// === impl Listing ===

impl Listing {
    /// The books without flows.
    pub fn of_books(books: &Books, source: &str, at_unix_ns: u64) -> Self {
        let sums = Sums::from(books);
        Self {
            at_unix_ns,
            source: source.to_owned(),
            opened: sums.opened,
            closed: sums.closed,
            live: sums.live,
            failed: sums.failed,
            lost: sums.lost,
            flows: Vec::new(),
            more: false,
            closed_last: Vec::new(),
        }
    }

    /// The books.
    pub fn sums(&self) -> Sums {
        Sums {
            opened: self.opened,
            closed: self.closed,
            live: self.live,
            failed: self.failed,
            lost: self.lost.clone(),
            ..Sums::default()
        }
    }
}

/// The answer to [`Question::Health`].
pub(super) fn health(health: Health) -> Vec<u8> {
    format!("{VERSION} ok\n{}", health.answer()).into_bytes()
}

/// The answer to [`Question::Flows`] and [`Question::Peers`].
pub(super) fn listing(listing: &impl Message) -> Vec<u8> {
    let mut answer = format!("{VERSION} ok\n").into_bytes();
    answer.extend(listing.encode_to_vec());
    answer
}

/// The answer to a request that is refused.
pub(super) fn refusal(why: &str) -> Vec<u8> {
    format!("{VERSION} error {}\n", why.replace('\n', " ")).into_bytes()
}

/// The answer where too many ask.
pub(super) fn busy() -> Vec<u8> {
    format!("{VERSION} busy\n").into_bytes()
}

/// What follows the first line of an answer.
///
/// # Errors
/// [`ProtocolError::Version`], [`ProtocolError::Refused`], [`ProtocolError::Busy`].
pub(super) fn body(answer: &[u8]) -> Result<&[u8], ProtocolError> {
    let end = answer.iter().position(|byte| *byte == b'\n');
    let (head, body) = answer.split_at(end.ok_or(ProtocolError::Version)? + 1);
    let head = std::str::from_utf8(head).map_err(|_| ProtocolError::Version)?;
    let head = head.trim_end().strip_prefix(VERSION);
    match head.and_then(|head| head.strip_prefix(' ')) {
        Some("ok") => Ok(body),
        Some("busy") => Err(ProtocolError::Busy),
        Some(other) => match other.strip_prefix("error ") {
            Some(why) => Err(ProtocolError::Refused(why.to_owned())),
            None => Err(ProtocolError::Version),
        },
        None => Err(ProtocolError::Version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_read_as_it_was_written() {
        for question in [
            Question::Health,
            Question::Peers,
            Question::Flows { after: 0, most: 0 },
            Question::Flows {
                after: u64::MAX,
                most: MOST_FLOWS,
            },
        ] {
            let request = question.request();
            assert!(request.len() <= LONGEST_REQUEST);
            assert_eq!(Question::read(&request), Ok(question), "{request}");
        }
        let bounded = Question::read("flowcar/1 flows most=4294967295");
        let most = MOST_FLOWS;
        assert_eq!(bounded, Ok(Question::Flows { after: 0, most }));
    }

    #[test]
    fn unknown_request_is_an_error_with_a_remedy() {
        for other in ["", "flowcar", "flowcar/2 health", "GET / HTTP/1.1"] {
            assert_eq!(
                Question::read(other),
                Err(ProtocolError::Version),
                "{other}"
            );
        }
        for unknown in [
            "flowcar/1",
            "flowcar/1 health now",
            "flowcar/1 flows all",
            "flowcar/1 flows most=-1",
            "flowcar/1 flows most=4294967296",
            "flowcar/1 flows before=1",
        ] {
            let error = Question::read(unknown).expect_err(unknown).to_string();
            assert!(error.contains("questions are `health`"), "{error}");
        }
    }

    #[test]
    fn answer_is_its_body_or_an_error() {
        assert_eq!(body(b"flowcar/1 ok\nlive\n"), Ok(&b"live\n"[..]));
        let refused = ProtocolError::Refused("not you".to_owned());
        assert_eq!(body(&refusal("not\nyou")), Err(refused));
        assert_eq!(body(&busy()), Err(ProtocolError::Busy));
        for other in [
            "",
            "flowcar/1 ok",
            "flowcar/1 okay\n",
            "flowcar/2 ok\n",
            "live\n",
        ] {
            assert_eq!(
                body(other.as_bytes()),
                Err(ProtocolError::Version),
                "{other}"
            );
        }
    }
}
