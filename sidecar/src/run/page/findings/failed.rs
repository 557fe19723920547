//! Attempts that fail or take long, and connections that are cut off.

use super::{
    super::peers::{BY_THIS_END, PeerSum},
    Answer, Facts, Weight, connections, fine, no_server, reasons, unknown,
};
use crate::view::quantity::duration;

pub(super) fn failures(facts: &Facts<'_>) -> Answer {
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
    let is_harmless = |reason: &&str| BY_THIS_END.contains(reason);
    let is_alarm = facts
        .peers
        .iter()
        .any(|(_, peer)| peer.failed.keys().any(|reason| !is_harmless(reason)));
    let weight = Weight::Note.or_alarm(is_alarm);
    (weight, text, worst.map(|(at, ..)| at.into()))
}

pub(super) fn connecting(facts: &Facts<'_>) -> Answer {
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
            no_server()
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
    let weight = Weight::Fine.or_alarm(is_alarm);
    (weight, text, Some(at.into()))
}

pub(super) fn resets(facts: &Facts<'_>) -> Answer {
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
    (weight, text, worst.map(|(at, ..)| at.into()))
}
