//! The questions of docs/questions.md that one command's connections answer, each with its answer in plain words. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::peers::{OTHERS, PeerSum};
use crate::{
    histogram::Histogram,
    view::{
        Sums,
        quantity::{bytes, duration},
    },
};

/// Local ports that the kernel gives clients by default (sysctl ip_local_port_range).
const PORTS: u64 = 28_232;

/// Connections of a peer from which on it is asked whether its pool is reused.
const MANY: u64 = 10;

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
}

/// The accept queue of one port: its greatest length, its capacity, and drops.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    pub(super) longest: u64,
    pub(super) capacity: u64,
    pub(super) drops: u64,
}

/// All that the answers follow from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) peers: &'a [(String, PeerSum)],
    pub(super) queues: &'a BTreeMap<Option<u16>, Queue>,
    pub(super) sums: &'a Sums,
    /// Whether exchanges were measured.
    pub(super) exchanges: bool,
    /// Whether handshakes were seen: by eBPF.
    pub(super) handshakes: bool,
}

/// An answer, and the peer that it is about.
type Answer = (Weight, String, Option<usize>);

/// Every question with its answer, in the order of docs/questions.md.
pub(super) fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    type Ask = fn(&Facts<'_>) -> Answer;
    let questions: [(&'static str, Ask); 13] = [
        ("Which peer is slow?", slow_peer),
        ("Is it the network or the server?", network_or_server),
        ("What fails to connect, and why?", failures),
        ("How long does connecting take?", connecting),
        ("Who resets us?", resets),
        ("Does the path lose packets?", losses),
        ("Is the pool reused?", pool),
        ("What holds it back?", held_back),
        ("Is the accept queue full?", accept_queue),
        ("Are there local ports left?", ports),
        ("Do connections leak?", leaks),
        ("Who sends the most?", talkers),
        ("Are the figures complete?", complete),
    ];
    let answers = questions.map(|(question, ask)| {
        let (weight, text, peer) = ask(facts);
        Finding {
            question,
            weight,
            text,
            peer,
        }
    });
    answers.into()
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

fn slow_peer(facts: &Facts<'_>) -> Answer {
    let by_exchange = facts.ranked(|peer| &peer.exchanges);
    let (ranked, what, of): (_, _, fn(&PeerSum) -> &Histogram) = if by_exchange.is_empty() {
        (facts.ranked(|peer| &peer.rtt), "round trips", |peer| {
            &peer.rtt
        })
    } else {
        (by_exchange, "answers", |peer| &peer.exchanges)
    };
    let Some((at, name, peer, p50)) = ranked.first().copied() else {
        return own_answers(facts);
    };
    let next = ranked.get(1).map(|(.., p50)| *p50);
    let is_slow = match next {
        Some(next) => p50 >= 0.01 && p50 >= 3.0 * next,
        None => p50 >= 0.1,
    };
    let longest = of(peer).quantile_s(0.99).unwrap_or(p50);
    let tail = match of(peer).count() {
        ..100 => "the longest",
        _ => "one in a hundred",
    };
    let mut text = format!(
        "{name}: half of its {what} take {} or longer, {tail} {}.",
        duration(p50),
        duration(longest)
    );
    text += &match ranked.get(1) {
        Some((_, next, _, p50)) => format!(
            " Next of {} peers: {next}, {}.",
            ranked.len(),
            duration(*p50)
        ),
        None => " It is the only peer.".to_owned(),
    };
    if is_slow {
        text += &cause(peer).map_or_else(String::new, |cause| format!(" {cause}"));
        return (Weight::Alarm, text, Some(at));
    }
    let tail = |peer: &PeerSum| {
        let (p50, p99) = (of(peer).quantile_s(0.5)?, of(peer).quantile_s(0.99)?);
        (!peer.is_server && p99 >= 0.1 && p99 >= 10.0 * p50).then_some(p99)
    };
    match facts.worst(tail) {
        Some((at, name, peer, p99)) => {
            let p50 = of(peer).quantile_s(0.5).unwrap_or_default();
            let text = format!(
                "{name} is slow at times: half of its {what} take {} at most, one in a hundred {} or longer.",
                duration(p50),
                duration(p99)
            );
            (Weight::Alarm, text, Some(at))
        }
        None if !facts.exchanges => {
            text += " Exchanges were not measured: a slow server does not show.";
            (Weight::Note, text, Some(at))
        }
        None => (Weight::Fine, text, Some(at)),
    }
}

/// What a server's end knows: how long its own application takes.
fn own_answers(facts: &Facts<'_>) -> Answer {
    let own = facts.worst(|peer| peer.exchanges.quantile_s(0.5));
    match own {
        Some((at, name, _, p50)) => {
            let text = format!(
                "This command is the server: half of its own answers to {name} take {} or longer.",
                duration(p50)
            );
            let weight = if p50 >= 0.1 {
                Weight::Alarm
            } else {
                Weight::Fine
            };
            (weight, text, Some(at))
        }
        None => unknown("No connection has a time."),
    }
}

/// Whether a peer's answers wait for the network or for the server.
fn cause(peer: &PeerSum) -> Option<String> {
    let network = peer.least_rtt.quantile_s(0.5)?;
    let exchange = peer.exchanges.quantile_s(0.5)?;
    let whose = if network >= exchange / 2.0 {
        "It is the network"
    } else {
        "It is the server"
    };
    let (network, exchange) = (duration(network), duration(exchange));
    Some(format!(
        "{whose}: of {exchange} a round trip through the network takes {network}."
    ))
}

fn network_or_server(facts: &Facts<'_>) -> Answer {
    let ranked = facts.ranked(|peer| &peer.exchanges);
    match ranked.first() {
        Some((at, name, peer, _)) => match cause(peer) {
            Some(cause) => (Weight::Fine, format!("{name}. {cause}"), Some(*at)),
            None => unknown("The slowest peer's connections have no round trip time."),
        },
        None if facts.servers().next().is_none() => fine("No server was asked."),
        None if facts.exchanges => unknown("No server answered."),
        None => unknown("Exchanges were not measured: FLOWCAR_EXCHANGE=off, or no eBPF."),
    }
}

fn failures(facts: &Facts<'_>) -> Answer {
    let failed = facts.total(PeerSum::failures);
    if failed == 0 {
        return fine("No attempt failed.");
    }
    let tried = failed + facts.total(|peer| if peer.is_server { 0 } else { peer.connections });
    let worst = facts.worst(|peer| Some(peer.failures() as f64));
    let mut text = format!("{failed} of {tried} attempts failed.");
    if let Some((_, name, peer, _)) = worst {
        text += &format!(" Most of them to {name}: {}.", reasons(&peer.failed));
    }
    // An application that tries several addresses gives up the slower ones, and IPv6 where there is none.
    let is_harmless = |reason: &&str| ["abandoned", "local"].contains(reason);
    let is_alarm = facts
        .peers
        .iter()
        .any(|(_, peer)| peer.failed.keys().any(|reason| !is_harmless(reason)));
    let weight = if is_alarm {
        Weight::Alarm
    } else {
        Weight::Note
    };
    (weight, text, worst.map(|(at, ..)| at))
}

fn connecting(facts: &Facts<'_>) -> Answer {
    if !facts.handshakes {
        return unknown("Handshakes are not seen without eBPF.");
    }
    let again = |peer: &PeerSum| peer.handshake_retransmits;
    let p99 = |peer: &PeerSum| peer.connect.quantile_s(0.99);
    // Of those that had to send SYNs again, if there are any.
    let any = facts.total(again) > 0;
    let rank = |peer: &PeerSum| {
        if any {
            Some(again(peer) as f64)
        } else {
            p99(peer)
        }
    };
    let Some((at, name, peer, _)) = facts.worst(rank) else {
        return if facts.servers().next().is_none() {
            fine("No server was asked.")
        } else {
            unknown("No attempt succeeded.")
        };
    };
    let longest = p99(peer);
    let mut text = match (peer.connect.quantile_s(0.5), longest) {
        (Some(p50), Some(p99)) => format!(
            "Longest to {name}: p50 {}, p99 {}.",
            duration(p50),
            duration(p99)
        ),
        _ => format!("No attempt to connect to {name} succeeded."),
    };
    if any {
        text += &format!(
            " {} SYNs or SYN-ACKs were sent again: the path lost them, or the accept queue was full.",
            again(peer)
        );
    }
    let is_alarm = any || longest.is_some_and(|p99| p99 >= 0.5);
    let weight = if is_alarm {
        Weight::Alarm
    } else {
        Weight::Fine
    };
    (weight, text, Some(at))
}

fn resets(facts: &Facts<'_>) -> Answer {
    let cut = facts.total(PeerSum::cuts);
    if cut == 0 {
        return fine("No connection was cut off.");
    }
    let by_peer = |peer: &PeerSum| {
        let all = peer.cut_off.iter();
        let of_others = all.filter(|(reason, _)| **reason != "reset_sent");
        let count: u64 = of_others.map(|(_, count)| count).sum();
        (count > 0).then_some(count as f64)
    };
    let (weight, worst) = match facts.worst(by_peer) {
        Some(worst) => (Weight::Alarm, Some(worst)),
        None => (Weight::Note, facts.worst(|peer| Some(peer.cuts() as f64))),
    };
    let mut text = format!("Cut off: {}.", connections(cut));
    if let Some((_, name, peer, _)) = worst {
        text += &format!(
            " {name}: {}, of {}.",
            reasons(&peer.cut_off),
            connections(peer.connections)
        );
    }
    (weight, text, worst.map(|(at, ..)| at))
}

fn losses(facts: &Facts<'_>) -> Answer {
    let again = facts.total(|peer| peer.data_retransmits);
    if again == 0 {
        return fine("No data was sent again.");
    }
    let share = |peer: &PeerSum| {
        (peer.data_retransmits > 0)
            .then(|| peer.data_retransmits as f64 / peer.segments_sent.max(1) as f64)
    };
    let Some((at, name, peer, share)) = facts.worst(share) else {
        return (
            Weight::Note,
            format!("{again} segments were sent again."),
            None,
        );
    };
    let text = format!(
        "To {name} {} of {} segments were sent again ({:.1} %).",
        peer.data_retransmits,
        peer.segments_sent,
        share * 100.0
    );
    let is_alarm = share >= 0.01 && peer.data_retransmits >= 3;
    let weight = if is_alarm {
        Weight::Alarm
    } else {
        Weight::Note
    };
    (weight, text, Some(at))
}

fn pool(facts: &Facts<'_>) -> Answer {
    if !facts.exchanges {
        return unknown("Exchanges were not measured: FLOWCAR_EXCHANGE=off, or no eBPF.");
    }
    let busiest = facts.servers().max_by_key(|(_, _, peer)| peer.connections);
    let Some((at, name, peer)) = busiest.filter(|(_, _, peer)| peer.connections > 0) else {
        return fine("No server was asked.");
    };
    let exchanges = peer.exchanges.count();
    let mut text = format!(
        "{name}: {exchanges} exchanges on {}.",
        connections(peer.connections)
    );
    let is_alarm = peer.connections >= MANY && exchanges * 2 < peer.connections * 3;
    if is_alarm {
        text += " The pool is not reused: nearly each request has a connection of its own.";
    }
    let weight = if is_alarm {
        Weight::Alarm
    } else {
        Weight::Fine
    };
    (weight, text, Some(at))
}

fn held_back(facts: &Facts<'_>) -> Answer {
    if facts.total(|peer| peer.polled) == 0 {
        return unknown("No socket was polled while it was open.");
    }
    let share = |us: u64, peer: &PeerSum| us as f64 / peer.lifetime_us.max(1) as f64;
    let window = |peer: &PeerSum| share(peer.window_limited_us, peer);
    let buffer = |peer: &PeerSum| share(peer.buffer_limited_us, peer);
    let Some((at, name, peer, most)) = facts.worst(|peer| Some(window(peer).max(buffer(peer))))
    else {
        return fine("No connection was held back.");
    };
    if most < 0.01 {
        return fine("Neither the peer's window nor the send buffer held a connection back.");
    }
    let what = if window(peer) >= buffer(peer) {
        "by the peer's window: the peer reads too slowly"
    } else {
        "by this end's send buffer: it is too small"
    };
    let text = format!("{name}: for {:.0} % of its time {what}.", most * 100.0);
    let weight = if most >= 0.1 {
        Weight::Alarm
    } else {
        Weight::Note
    };
    (weight, text, Some(at))
}

fn accept_queue(facts: &Facts<'_>) -> Answer {
    let fullest = facts.queues.iter().max_by(|(_, one), (_, other)| {
        let rank = |queue: &Queue| {
            (
                queue.drops,
                queue.longest as f64 / queue.capacity.max(1) as f64,
            )
        };
        rank(one)
            .partial_cmp(&rank(other))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let Some((port, queue)) = fullest else {
        return fine(
            "No listening socket of the command was seen. A server's full queue shows at its clients as SYNs that are sent again.",
        );
    };
    let port = port.map_or_else(|| "other ports".to_owned(), |port| format!(":{port}"));
    let text = format!(
        "{port}: {} of {} connections waited at most, {} SYNs or last ACKs of handshakes were dropped.",
        queue.longest, queue.capacity, queue.drops
    );
    let is_full = queue.drops > 0 || queue.longest > 0 && queue.longest >= queue.capacity;
    (
        if is_full { Weight::Alarm } else { Weight::Fine },
        text,
        None,
    )
}

fn ports(facts: &Facts<'_>) -> Answer {
    let busiest = facts
        .servers()
        .max_by_key(|(_, _, peer)| peer.time_wait + peer.open);
    let Some((at, name, peer)) = busiest else {
        return fine("No server was asked.");
    };
    let used = peer.time_wait + peer.open;
    let text = format!(
        "{used} of {PORTS} (the default) for {name}: {} open, {} closed by this end (in TIME_WAIT for a minute).",
        peer.open, peer.time_wait
    );
    let weight = if used * 2 >= PORTS {
        Weight::Alarm
    } else {
        Weight::Fine
    };
    (weight, text, Some(at))
}

fn leaks(facts: &Facts<'_>) -> Answer {
    let open = facts.total(|peer| peer.open);
    if open == 0 {
        return fine("No connection stayed open.");
    }
    let worst = facts.worst(|peer| Some(peer.open as f64));
    let text = match worst {
        Some((_, name, peer, _)) => format!(
            "Open when the command ended: {}, {} of them to {name}.",
            connections(open),
            peer.open
        ),
        None => format!("Open when the command ended: {}.", connections(open)),
    };
    (Weight::Note, text, worst.map(|(at, ..)| at))
}

fn talkers(facts: &Facts<'_>) -> Answer {
    let volume = |peer: &PeerSum| Some((peer.bytes_sent + peer.bytes_received) as f64);
    match facts.worst(volume) {
        Some((at, name, peer, _)) => {
            let (sent, received) = (bytes(peer.bytes_sent), bytes(peer.bytes_received));
            let text = format!("{name}: {sent} sent, {received} received.");
            (Weight::Fine, text, Some(at))
        }
        None => fine("Nobody."),
    }
}

fn complete(facts: &Facts<'_>) -> Answer {
    let sums = facts.sums;
    let lost: u64 = sums.lost.values().sum();
    let mut text = format!(
        "{} opened = {} closed + {} live + {lost} lost.",
        sums.opened, sums.closed, sums.live
    );
    if lost > 0 {
        let by: Vec<_> = sums
            .lost
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        text += &format!(" The ends of the lost ones are unknown: {}.", by.join(", "));
        return (Weight::Alarm, text, None);
    }
    match sums.unscoped {
        Some(unscoped) if unscoped > 0 => {
            text += &format!(
                " {unscoped} more sockets of this network namespace opened and closed between two polls: some may be the command's."
            );
            (Weight::Note, text, None)
        }
        _ => (Weight::Fine, text, None),
    }
}

fn reasons(of: &BTreeMap<&'static str, u64>) -> String {
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

fn fine(text: &str) -> Answer {
    (Weight::Fine, text.to_owned(), None)
}

fn unknown(text: &str) -> Answer {
    (Weight::Unknown, text.to_owned(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ns: u64, count: usize) -> Histogram {
        let mut histogram = Histogram::default();
        (0..count).for_each(|_| histogram.record(ns));
        histogram
    }

    /// 5 connections of ten fast exchanges each.
    fn healthy() -> PeerSum {
        PeerSum {
            connections: 5,
            segments_sent: 1_000,
            connect: times(60_000, 5),
            rtt: times(50_000, 60),
            least_rtt: times(40_000, 5),
            exchanges: times(1_000_000, 50),
            polled: 5,
            lifetime_us: 10_000_000,
            ..PeerSum::default()
        }
    }

    fn ask(peers: &[PeerSum], sums: &Sums, queue: Option<Queue>) -> Vec<Finding> {
        let peers = peers.iter().enumerate();
        let peers: Vec<_> = peers
            .map(|(at, peer)| (format!("peer{at}"), peer.clone()))
            .collect();
        let queues = queue.map(|queue| (Some(80), queue)).into_iter().collect();
        findings(&Facts {
            peers: &peers,
            queues: &queues,
            sums,
            exchanges: true,
            handshakes: true,
        })
    }

    #[test]
    fn each_fault_is_an_alarm_that_names_its_peer_and_its_cause() {
        let reset = BTreeMap::from([("reset_received", 3)]);
        let refused = BTreeMap::from([("refused", 4)]);
        let cases: [(&str, &str, PeerSum); 9] = [
            (
                "Which peer is slow?",
                "It is the server",
                PeerSum {
                    exchanges: times(200_000_000, 50),
                    ..healthy()
                },
            ),
            (
                "Which peer is slow?",
                "It is the network",
                PeerSum {
                    exchanges: times(90_000_000, 50),
                    rtt: times(80_000_000, 50),
                    least_rtt: times(80_000_000, 5),
                    ..healthy()
                },
            ),
            (
                "What fails to connect, and why?",
                "4 of 14 attempts failed. Most of them to peer1: 4 refused.",
                PeerSum {
                    failed: refused,
                    ..healthy()
                },
            ),
            (
                "How long does connecting take?",
                "2 SYNs or SYN-ACKs were sent again",
                PeerSum {
                    connect: times(1_030_000_000, 5),
                    handshake_retransmits: 2,
                    ..healthy()
                },
            ),
            (
                "Who resets us?",
                "3 reset_received, of 5 connections",
                PeerSum {
                    cut_off: reset,
                    ..healthy()
                },
            ),
            (
                "Does the path lose packets?",
                "50 of 1000 segments",
                PeerSum {
                    data_retransmits: 50,
                    ..healthy()
                },
            ),
            (
                "Is the pool reused?",
                "50 exchanges on 40 connections. The pool is not reused",
                PeerSum {
                    connections: 40,
                    ..healthy()
                },
            ),
            (
                "What holds it back?",
                "40 % of its time by the peer's window",
                PeerSum {
                    window_limited_us: 4_000_000,
                    ..healthy()
                },
            ),
            (
                "Are there local ports left?",
                "20000 of 28232",
                PeerSum {
                    time_wait: 20_000,
                    connections: 20_000,
                    exchanges: times(1_000_000, 90_000),
                    ..healthy()
                },
            ),
        ];
        for (question, expected, faulty) in cases {
            let found = ask(&[healthy(), faulty], &Sums::default(), None);
            let alarms: Vec<_> = found
                .iter()
                .filter(|of| of.weight == Weight::Alarm)
                .collect();
            let [alarm] = alarms[..] else {
                panic!("{question}: {alarms:?}");
            };
            assert_eq!((alarm.question, alarm.peer), (question, Some(1)));
            assert!(
                alarm.text.contains(expected) && alarm.text.contains("peer1"),
                "{alarm:?}"
            );
        }
    }

    #[test]
    fn full_queue_and_lost_connections_are_alarms() {
        let queue = Queue {
            longest: 2,
            capacity: 1,
            drops: 7,
        };
        let sums = Sums {
            opened: 3,
            closed: 1,
            lost: BTreeMap::from([("ring_full".to_owned(), 2)]),
            ..Sums::default()
        };
        let found = ask(&[healthy()], &sums, Some(queue));
        let alarms = found.iter().filter(|of| of.weight == Weight::Alarm);
        let texts: Vec<_> = alarms.map(|alarm| alarm.text.as_str()).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(
            texts[0].starts_with(":80: 2 of 1 connections waited at most, 7 SYNs"),
            "{texts:?}"
        );
        assert!(texts[1].ends_with("2 ring_full."), "{texts:?}");
    }

    #[test]
    fn nothing_stands_out_of_healthy_peers_and_of_none() {
        for peers in [&[][..], &[healthy()], &[healthy(), healthy()]] {
            let queue = Queue {
                longest: 1,
                capacity: 128,
                drops: 0,
            };
            let found = ask(peers, &Sums::default(), Some(queue));
            assert_eq!(found.len(), 13);
            assert!(
                found.iter().all(|of| of.weight >= Weight::Fine),
                "{found:?}"
            );
            assert!(found.iter().all(|of| of.text.len() > 5));
        }
    }

    #[test]
    fn slow_tail_is_an_alarm_although_the_median_is_fast() {
        let mut tail = healthy();
        tail.exchanges.merge(&times(900_000_000, 2));
        let found = ask(&[healthy(), tail], &Sums::default(), None);
        assert_eq!((found[0].weight, found[0].peer), (Weight::Alarm, Some(1)));
        assert!(found[0].text.contains("slow at times"), "{found:?}");
    }
}
