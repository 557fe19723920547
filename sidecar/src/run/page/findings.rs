//! The questions of docs/questions.md that one command's connections answer, each with its answer in plain words. Pure.

mod books;
mod data;
mod failed;
mod flowcar;
mod limits;
mod parts;
mod slow;

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use serde::Serialize;

use super::peers::{OTHERS, PeerSum};
use crate::{histogram::Histogram, view::Sums};

/// How much an answer matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Weight {
    /// Somebody has to do something about it.
    Alarm,
    /// It may be as intended.
    Note,
    /// Nothing stands out.
    Fine,
    /// It was not measured.
    Unknown,
}

/// A question and its answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) question: &'static str,
    pub(super) weight: Weight,
    pub(super) text: String,
    /// The peer that it is about, by its place in the table.
    pub(super) peer: Option<usize>,
    /// The process whose connections to that peer it is about.
    pub(super) process: Option<u32>,
}

/// The accept queue of one port: its greatest length, its capacity, and drops.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    pub(super) longest: u64,
    pub(super) capacity: u64,
    pub(super) drops: u64,
}

/// What was measured of a peer in the first and in the second half of the run.
pub(super) type Halves = [Histogram; 2];

/// What flowcar cost while the command ran.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::run) struct Cost {
    /// CPU time of flowcar's process.
    pub(in crate::run) cpu: Duration,
    /// CPU time of the command, and of those of its processes that were waited for.
    pub(in crate::run) command_cpu: Duration,
    /// Memory that flowcar had when the command ended, bytes.
    pub(in crate::run) memory: u64,
}

/// All that the answers follow from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) peers: &'a [(String, PeerSum)],
    /// Exchanges of each peer, or its round trips where no exchanges were measured; `None` where the peer has no heat map.
    pub(super) halves: &'a [Option<Halves>],
    pub(super) queues: &'a BTreeMap<Option<u16>, Queue>,
    pub(super) sums: &'a Sums,
    /// Whether exchanges were measured.
    pub(super) exchanges: bool,
    /// Whether handshakes were seen: by eBPF.
    pub(super) handshakes: bool,
    /// Whether receivers took all; `None` where nothing is exported.
    pub(super) is_delivered: Option<bool>,
    pub(super) cost: Cost,
    /// How long the run took, nanoseconds.
    pub(super) took_ns: u64,
}

/// What an answer is about: a peer, by its place in the table, and perhaps one process that asks it.
#[derive(Clone, Copy, Debug)]
struct Subject {
    peer: usize,
    process: Option<u32>,
}

/// An answer, and what it is about.
type Answer = (Weight, String, Option<Subject>);

/// Every question with its answer, in the order of docs/questions.md.
pub(super) fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    type Ask = fn(&Facts<'_>) -> Answer;
    let questions: [(&'static str, Ask); 18] = [
        ("Which peer is slow?", slow::slow_peer),
        ("Is it the network or the server?", slow::network_or_server),
        ("Is it slower than it was?", slow::slower),
        ("Is it one process or all of them?", parts::one_process),
        ("What fails to connect, and why?", failed::failures),
        ("How long does connecting take?", failed::connecting),
        ("Who resets us?", failed::resets),
        ("Does the path lose packets?", data::losses),
        ("Is the pool reused?", limits::pool),
        ("What holds it back?", data::held_back),
        ("Is the accept queue full?", limits::accept_queue),
        ("Are there local ports left?", limits::ports),
        ("Do connections leak?", limits::leaks),
        ("Is the load even?", parts::load),
        ("Who sends the most?", data::talkers),
        ("Are the figures complete?", books::complete),
        ("Does flowcar deliver?", flowcar::delivery),
        ("What does flowcar cost?", flowcar::cost),
    ];
    let answers = questions.map(|(question, ask)| {
        let (weight, text, subject) = ask(facts);
        Finding {
            question,
            weight,
            text,
            peer: subject.map(|of| of.peer),
            process: subject.and_then(|of| of.process),
        }
    });
    answers.into()
}

impl From<usize> for Subject {
    fn from(peer: usize) -> Self {
        Self {
            peer,
            process: None,
        }
    }
}

impl Weight {
    /// An alarm, or this where it is none.
    const fn or_alarm(self, is_alarm: bool) -> Self {
        if is_alarm { Self::Alarm } else { self }
    }

    /// That of something so many times as slow as it should be.
    fn of_times(times: f64, noted: f64, alarming: f64) -> Self {
        if times >= alarming {
            Self::Alarm
        } else if times >= noted {
            Self::Note
        } else {
            Self::Fine
        }
    }
}

impl Facts<'_> {
    /// Peers that this command asks, with their place in the table.
    fn servers(&self) -> impl Iterator<Item = (usize, &str, &PeerSum)> {
        self.named().filter(|(_, _, peer)| !peer.is_server)
    }

    fn named(&self) -> impl Iterator<Item = (usize, &str, &PeerSum)> {
        let all = self.peers.iter().enumerate();
        all.map(|(at, (name, peer))| (at, name.as_str(), peer))
            .filter(|(_, name, _)| *name != OTHERS)
    }

    /// The peer with the greatest value that is there.
    fn worst(
        &self,
        value: impl Fn(&PeerSum) -> Option<f64>,
    ) -> Option<(usize, &str, &PeerSum, f64)> {
        self.named()
            .filter_map(|(at, name, peer)| Some((at, name, peer, value(peer)?)))
            .max_by(|(.., one), (.., other)| one.total_cmp(other))
    }

    fn total(&self, count: impl Fn(&PeerSum) -> u64) -> u64 {
        self.peers.iter().map(|(_, peer)| count(peer)).sum()
    }

    /// Peers by their median of a time, the slowest first.
    fn ranked(&self, of: fn(&PeerSum) -> &Histogram) -> Vec<(usize, &str, &PeerSum, f64)> {
        let timed = |(at, name, peer)| Some((at, name, peer, of(peer).quantile_s(0.5)?));
        let mut ranked: Vec<_> = self.servers().filter_map(timed).collect();
        ranked.sort_by(|(.., one), (.., other)| other.total_cmp(one));
        ranked
    }
}

/// Reasons with their counts.
fn reasons(of: &BTreeMap<impl Display, u64>) -> String {
    let parts: Vec<_> = of
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.join(", ")
}

fn connections(count: u64) -> String {
    let word = if count == 1 {
        "connection"
    } else {
        "connections"
    };
    format!("{count} {word}")
}

/// What is asked of servers does not arise.
fn no_server() -> Answer {
    fine("No server was asked.")
}

/// What is asked of exchanges is open.
fn no_exchanges() -> Answer {
    unknown("Exchanges were not measured: FLOWCAR_EXCHANGE=off, or no eBPF.")
}

fn fine(text: &str) -> Answer {
    (Weight::Fine, text.to_owned(), None)
}

fn unknown(text: &str) -> Answer {
    (Weight::Unknown, text.to_owned(), None)
}

#[cfg(test)]
mod tests;
