//! What is sent: how much of it, how much again, and what holds it back.

use super::{super::peers::PeerSum, Answer, Facts, Weight, fine, unknown};
use crate::view::quantity::bytes;

pub(super) fn losses(facts: &Facts<'_>) -> Answer {
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
    let weight = Weight::Note.or_alarm(is_alarm);
    (weight, text, Some(at.into()))
}

pub(super) fn held_back(facts: &Facts<'_>) -> Answer {
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
    let weight = Weight::Note.or_alarm(most >= 0.1);
    (weight, text, Some(at.into()))
}

pub(super) fn talkers(facts: &Facts<'_>) -> Answer {
    let volume = |peer: &PeerSum| Some((peer.bytes_sent + peer.bytes_received) as f64);
    match facts.worst(volume) {
        Some((at, name, peer, _)) => {
            let (sent, received) = (bytes(peer.bytes_sent), bytes(peer.bytes_received));
            let text = format!("{name}: {sent} sent, {received} received.");
            (Weight::Fine, text, Some(at.into()))
        }
        None => fine("Nobody."),
    }
}
