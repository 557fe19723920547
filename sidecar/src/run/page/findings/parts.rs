//! Whether one of several processes, or of several addresses, differs from the others.

use std::net::IpAddr;

use super::{
    super::peers::{AddressSum, PeerSum, ProcessSum, Span},
    Answer, Facts, Subject, Weight, connections, fine, unknown,
};
use crate::{histogram::Histogram, view::quantity::duration};

/// Exchanges, or round trips, that a process has to have for its median to be compared.
const ENOUGH: u64 = 10;

/// Times as slow as the next process from which on a process is a note, and a problem. Medians of so few times differ by chance, too.
const NOTED: f64 = 3.0;
const ALARMING: f64 = 4.0;

/// Seconds that people notice.
const NOTICEABLE: f64 = 0.01;

/// A process of a peer: its name, and the median of its times in seconds.
struct Timed {
    pid: u32,
    name: String,
    p50: f64,
}

/// Processes of one peer by their median, the slowest first.
fn ranked(peer: &PeerSum, of: fn(&ProcessSum) -> &Histogram) -> Vec<Timed> {
    let timed = |(pid, process): (&u32, &ProcessSum)| {
        let times = of(process);
        let p50 = times.quantile_s(0.5).filter(|_| times.count() >= ENOUGH)?;
        Some(Timed {
            pid: *pid,
            name: process_name(*pid, process),
            p50,
        })
    };
    let mut ranked: Vec<_> = peer.processes.iter().filter_map(timed).collect();
    ranked.sort_by(|one, other| other.p50.total_cmp(&one.p50));
    ranked
}

fn process_name(pid: u32, process: &ProcessSum) -> String {
    match &process.name {
        Some(name) => format!("{name} ({pid})"),
        None => format!("process {pid}"),
    }
}

/// Failures of one process that are more than chance, and connections of the others that are enough to compare.
const FAILURES: u64 = 3;

/// The process that alone fails to reach a peer that others reach.
fn failing(peer: &PeerSum) -> Option<(u32, String, u64)> {
    let failing = peer
        .processes
        .iter()
        .filter(|(_, process)| process.failures > 0);
    let mut failing = failing.collect::<Vec<_>>().into_iter();
    let (pid, process) = failing.next().filter(|_| failing.len() == 0)?;
    let of_others = peer.processes.iter().filter(|(other, _)| *other != pid);
    let reached: u64 = of_others.map(|(_, process)| process.connections).sum();
    let is_alone = process.failures >= FAILURES && reached >= FAILURES;
    is_alone.then(|| (*pid, process_name(*pid, process), process.failures))
}

pub(super) fn one_process(facts: &Facts<'_>) -> Answer {
    let failing = facts
        .servers()
        .filter_map(|(at, name, peer)| Some((at, name, peer, failing(peer)?)));
    if let Some((at, name, peer, (pid, process, count))) =
        failing.max_by_key(|(.., (.., count))| *count)
    {
        let text = format!(
            "Of {} processes that ask {name}, {process} alone fails: {count} of its attempts and connections failed or were cut off, and none of the others.",
            peer.processes.len()
        );
        return (Weight::Alarm, text, Some(of_process(at, pid)));
    }
    slow_process(facts)
}

fn of_process(peer: usize, pid: u32) -> Subject {
    Subject {
        peer,
        process: Some(pid),
    }
}

fn slow_process(facts: &Facts<'_>) -> Answer {
    let (what, of): (_, fn(&ProcessSum) -> &Histogram) = if facts.exchanges {
        ("answers", |process| &process.exchanges)
    } else {
        ("round trips", |process| &process.rtt)
    };
    let all = facts
        .servers()
        .map(|(at, name, peer)| (at, name, ranked(peer, of)));
    // How many times as slow as the next one the slowest is.
    let most = all
        .filter_map(|(at, name, ranked)| match &ranked[..] {
            [slowest, next, ..] => Some((slowest.p50 / next.p50, at, name, ranked)),
            _ => None,
        })
        .max_by(|(one, ..), (other, ..)| one.total_cmp(other));
    let Some((times, at, name, ranked)) = most else {
        return alone(facts);
    };
    let [slowest, next, ..] = &ranked[..] else {
        return alone(facts);
    };
    let weight = Weight::of_times(
        if slowest.p50 < NOTICEABLE { 0.0 } else { times },
        NOTED,
        ALARMING,
    );
    let is_alone = weight != Weight::Fine;
    let how = if is_alone {
        "alone is slow"
    } else {
        "is the slowest"
    };
    let text = format!(
        "Of {} processes that ask {name}, {} {how}: half of its {what} take {} or longer, those of the next, {}, {}.",
        ranked.len(),
        slowest.name,
        duration(slowest.p50),
        next.name,
        duration(next.p50)
    );
    (weight, text, Some(of_process(at, slowest.pid)))
}

/// No peer was asked by two processes.
fn alone(facts: &Facts<'_>) -> Answer {
    let of_peers = facts.named().flat_map(|(_, _, peer)| &peer.processes);
    let mut processes: Vec<_> = of_peers.collect();
    processes.sort_by_key(|(pid, _)| **pid);
    processes.dedup_by_key(|(pid, _)| **pid);
    match processes[..] {
        [] => unknown("No connection's process is known."),
        [(pid, process)] => {
            let name = process_name(*pid, process);
            let text = format!("{name} is the only process that is known.");
            (Weight::Fine, text, None)
        }
        _ => fine("No two processes asked the same peer often enough to be compared."),
    }
}

/// An address or a process, and the connections to it.
struct Part {
    name: String,
    connections: u64,
    used: Option<Span>,
}

/// Where a peer's connections are, the most first.
fn shares(peer: &PeerSum) -> Vec<Vec<Part>> {
    let mut all: Vec<Vec<_>> = if peer.is_server {
        let of = |(pid, process): (&u32, &ProcessSum)| Part {
            name: process_name(*pid, process),
            connections: process.connections,
            used: process.used,
        };
        vec![peer.processes.iter().map(of).collect()]
    } else {
        // A client tries one family first, and the other one only where that is late.
        let of_family = |is_v4: bool| {
            let addresses = peer
                .addresses
                .iter()
                .filter(|(ip, _)| ip.is_ipv4() == is_v4);
            let of = |(ip, sum): (&IpAddr, &AddressSum)| Part {
                name: ip.to_string(),
                connections: sum.connections,
                used: sum.used,
            };
            addresses.map(of).collect()
        };
        vec![of_family(true), of_family(false)]
    };
    all.iter_mut()
        .for_each(|parts| parts.sort_by_key(|part| std::cmp::Reverse(part.connections)));
    all
}

/// How uneven a load is.
struct Unevenness {
    /// How many times as many the first part has as the last.
    times: f64,
    /// Whether that is more than chance makes of an even choice.
    is_no_chance: bool,
    /// Whether there was a choice: a name's address may change, and a server may be started again.
    is_choice: bool,
}

/// By Pearson's test, whose sum is the number of parts less one on average, with a variance of twice that, and here by four standard
/// deviations more.
fn unevenness(parts: &[Part]) -> Option<Unevenness> {
    let ([most, .., least], count) = (parts, parts.len()) else {
        return None;
    };
    let total: u64 = parts.iter().map(|part| part.connections).sum();
    let fair = total as f64 / count as f64;
    let squares = parts
        .iter()
        .map(|part| (part.connections as f64 - fair).powi(2));
    let sum = squares.sum::<f64>() / fair;
    let by_chance = count as f64 - 1.0;
    let times = most.connections as f64 / least.connections.max(1) as f64;
    let is_chance = sum < by_chance + 4.0 * (2.0 * by_chance).sqrt();
    Some(Unevenness {
        times,
        is_no_chance: times >= 2.0 && !is_chance,
        is_choice: were_used_together(parts),
    })
}

/// Whether all were in use for a tenth of the time in which any was.
fn were_used_together(parts: &[Part]) -> bool {
    let used: Option<Vec<Span>> = parts.iter().map(|part| part.used).collect();
    let used = used.unwrap_or_default();
    let bounds = |first: Option<u64>, last: Option<u64>| Some((first?, last?));
    let firsts = || used.iter().map(|span| span.first_ns);
    let lasts = || used.iter().map(|span| span.last_ns);
    let (Some(any), Some(all)) = (
        bounds(firsts().min(), lasts().max()),
        bounds(firsts().max(), lasts().min()),
    ) else {
        return true;
    };
    let length = |(first, last): (u64, u64)| last.checked_sub(first);
    length(all).is_some_and(|length_of_all| {
        length_of_all.saturating_mul(10) >= length(any).unwrap_or_default()
    })
}

pub(super) fn load(facts: &Facts<'_>) -> Answer {
    let all = facts.named().flat_map(|(at, name, peer)| {
        let each = shares(peer).into_iter();
        each.filter_map(move |parts| Some((unevenness(&parts)?, at, name, parts)))
    });
    let rank = |of: &Unevenness| (of.is_no_chance && of.is_choice, of.times);
    let most = all.max_by(|(one, ..), (other, ..)| {
        rank(one)
            .partial_cmp(&rank(other))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let Some((found, at, name, parts)) = most else {
        return fine("No name stood for two addresses, and no port was served by two processes.");
    };
    let total = parts.iter().map(|part| part.connections).sum();
    let mut text = format!("{name}: {} over {}", connections(total), parts.len());
    if facts.peers[at].1.has_more_parts() {
        text += " (of more than these)";
    }
    text += if facts.peers[at].1.is_server {
        " processes."
    } else {
        " addresses."
    };
    if let (Some(most), Some(least)) = (parts.first(), parts.last()) {
        text += &format!(
            " The most, {}, are to {}, the fewest, {}, to {}.",
            most.connections, most.name, least.connections, least.name
        );
    }
    let is_uneven = found.is_no_chance && found.is_choice;
    if is_uneven {
        text += " The load is not even.";
    } else if found.is_no_chance {
        text += " They were not in use at the same time.";
    }
    (Weight::Fine.or_alarm(is_uneven), text, Some(at.into()))
}
