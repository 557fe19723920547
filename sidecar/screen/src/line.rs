//! The lines by which `flowcar top --format json` and `kubectl flowcar top` exchange answers: each is one JSON object. Pure.
//!
//! The first line has every peer, a later one those that changed since, and the numbers of those that flowcar dropped. What is read comes
//! from a container that somebody else may have built: its size is bounded, and its text is made printable.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

use crate::{
    answer::{Answer, Books, ClosedCounts, ConnectionCounts, Connections, PeerCounts},
    buckets::MOST_COUNT,
};

/// The form's name and version, which each line has. A field that is new does not change it.
pub const PROTOCOL: &str = "flowcar-top/1";

/// The longest line, bytes.
pub const MOST_BYTES: usize = 8 << 20;

/// The most peers of a flowcar: those that were sent before, then those with the most connections and bytes.
pub const MOST_PEERS: usize = 2_100;

/// The most connections in one line.
pub const MOST_CONNECTIONS: usize = 1_000;

/// The most connections that closed last in one line.
pub const MOST_CLOSED: usize = 512;

/// The most reasons for which connections are lost.
const MOST_REASONS: usize = 64;

/// The longest reason, characters.
const MOST_REASON: usize = 60;

/// The longest name, characters: one of DNS has 253, and the port follows.
const MOST_NAME: usize = 300;

/// The longest name of a process with its number, characters: the kernel's has 15.
const MOST_PROCESS: usize = 40;

/// The longest sentence, characters.
const MOST_SENTENCE: usize = 400;

/// A line.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Line {
    protocol: String,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    books: Option<Books>,
    /// Peers that are new or changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    peers: Vec<PeerCounts>,
    /// Series that are there no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<u64>,
    #[serde(default)]
    left_out: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connections: Option<Connections>,
}

/// Writes answers.
#[derive(Debug, Default)]
pub struct Writer {
    sent: BTreeMap<u64, PeerCounts>,
}

/// Reads answers.
#[derive(Debug, Default)]
pub struct Reader {
    peers: BTreeMap<u64, PeerCounts>,
}

/// Why a line is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Another protocol, or another version.
    #[error(
        "its flowcar answers as {0:?}, and this program reads {PROTOCOL:?}: use both of the same release"
    )]
    Version(String),
    /// No line of this form.
    #[error(
        "its answer cannot be read ({0}): if that stays so, use the flowcar of the same release"
    )]
    Damaged(&'static str),
    /// The other end's own words.
    #[error("{0}")]
    Refused(String),
}

// === impl Writer ===

impl Writer {
    /// The line of an answer, without its end: what changed since the last one.
    pub fn answer(&mut self, mut answer: Answer) -> String {
        let over = answer.peers.len().saturating_sub(MOST_PEERS);
        if over > 0 {
            // One that came and went would have rates that it has not.
            let rank = |of: &PeerCounts| {
                let bytes = of.bytes_sent + of.bytes_received;
                (self.sent.contains_key(&of.series), of.live, bytes)
            };
            answer.peers.sort_by_key(|of| Reverse(rank(of)));
            answer.peers.truncate(MOST_PEERS);
        }
        let now: BTreeSet<u64> = answer.peers.iter().map(|of| of.series).collect();
        let dropped = self.sent.keys().filter(|series| !now.contains(series));
        let dropped: Vec<u64> = dropped.copied().collect();
        dropped.iter().for_each(|series| {
            self.sent.remove(series);
        });
        let mut changed = answer.peers;
        changed.retain(|of| self.sent.get(&of.series) != Some(of));
        for peer in &changed {
            self.sent.insert(peer.series, peer.clone());
        }
        let line = Line {
            books: Some(answer.books),
            peers: changed,
            dropped,
            left_out: answer.left_out + over as u64,
            connections: answer.connections,
            ..Line::new()
        };
        line.text()
    }

    /// The line that there is no answer, and why.
    pub fn error(why: &str) -> String {
        let line = Line {
            error: Some(printable(why, MOST_SENTENCE)),
            ..Line::new()
        };
        line.text()
    }
}

// === impl Line ===

impl Line {
    fn new() -> Self {
        Self {
            protocol: PROTOCOL.to_owned(),
            ..Self::default()
        }
    }

    fn text(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialise")
    }
}

// === impl Reader ===

impl Reader {
    /// The answer after a line.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn read(&mut self, line: &[u8]) -> Result<Answer, LineError> {
        let line = parse(line)?;
        if let Some(why) = line.error {
            return Err(LineError::Refused(printable(&why, MOST_SENTENCE)));
        }
        let books = checked_books(line.books.ok_or(LineError::Damaged("it has no books"))?)?;
        let connections = line.connections.map(checked_connections).transpose()?;
        for series in &line.dropped {
            self.peers.remove(series);
        }
        for peer in line.peers {
            let peer = checked_peer(peer)?;
            let is_known = self.peers.contains_key(&peer.series);
            if !is_known && self.peers.len() == MOST_PEERS {
                return Err(LineError::Damaged("it has too many peers"));
            }
            self.peers.insert(peer.series, peer);
        }
        Ok(Answer {
            books,
            peers: self.peers.values().cloned().collect(),
            left_out: line.left_out.min(MOST_COUNT),
            connections,
        })
    }
}

fn parse(line: &[u8]) -> Result<Line, LineError> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Head {
        protocol: String,
    }
    if line.len() > MOST_BYTES {
        return Err(LineError::Damaged("it is too long"));
    }
    let head: Head = serde_json::from_slice(line)
        .map_err(|_| LineError::Damaged("it is no line of flowcar top"))?;
    if head.protocol != PROTOCOL {
        return Err(LineError::Version(printable(&head.protocol, 40)));
    }
    serde_json::from_slice(line).map_err(|_| LineError::Damaged("a field is missing or wrong"))
}

fn checked_books(books: Books) -> Result<Books, LineError> {
    if books.lost.len() > MOST_REASONS {
        return Err(LineError::Damaged("it has too many reasons"));
    }
    let lost = books.lost.into_iter();
    Ok(Books {
        source: printable(&books.source, 20),
        lost: lost
            .map(|(reason, count)| (printable(&reason, MOST_REASON), count.min(MOST_COUNT)))
            .collect(),
        ..books
    })
}

fn checked_peer(peer: PeerCounts) -> Result<PeerCounts, LineError> {
    let counts = [
        peer.opened,
        peer.live,
        peer.cut_off,
        peer.failed,
        peer.segments_sent,
        peer.handshake_retransmits,
        peer.data_retransmits,
    ];
    let by_type = peer.retransmits_by_type.unwrap_or_default().named();
    let counts = counts.into_iter().chain(by_type.map(|(_, count)| count));
    // Bytes and microseconds have no bound that a person would meet: sums of them stop at the greatest number.
    if counts.into_iter().any(|count| count > MOST_COUNT) {
        return Err(LineError::Damaged("a count is beyond all bounds"));
    }
    Ok(PeerCounts {
        name: printable(&peer.name, MOST_NAME),
        ..peer
    })
}

fn checked_connections(connections: Connections) -> Result<Connections, LineError> {
    if connections.all.len() > MOST_CONNECTIONS {
        return Err(LineError::Damaged("it has too many connections"));
    }
    // A later version may send more.
    let older = connections.closed.len().saturating_sub(MOST_CLOSED);
    let (all, closed) = (connections.all.into_iter(), connections.closed.into_iter());
    Ok(Connections {
        of: printable(&connections.of, MOST_NAME),
        all: all
            .map(|connection| ConnectionCounts {
                process: connection.process.map(|of| printable(&of, MOST_PROCESS)),
                ..connection
            })
            .collect(),
        closed: closed
            .skip(older)
            .map(|of| ClosedCounts {
                reason: printable(&of.reason, MOST_REASON),
                ..of
            })
            .collect(),
        ..connections
    })
}

/// At most so many characters, each of which a terminal shows as it is.
pub fn printable(text: &str, most: usize) -> String {
    let shown = text.chars().map(|each| match each {
        ' '..='~' => each,
        _ => '?',
    });
    shown.take(most).collect()
}

#[cfg(test)]
mod tests;
