//! What there is a limited number of: connections, places in accept queues, local ports.

use super::{Answer, Facts, Queue, Weight, connections, fine, no_exchanges, no_server};

/// Local ports that the kernel gives clients by default (sysctl ip_local_port_range).
const PORTS: u64 = 28_232;

/// Connections of a peer from which on it is asked whether its pool is reused.
const MANY: u64 = 10;

pub(super) fn pool(facts: &Facts<'_>) -> Answer {
    if !facts.exchanges {
        return no_exchanges();
    }
    let busiest = facts.servers().max_by_key(|(_, _, peer)| peer.connections);
    let Some((at, name, peer)) = busiest.filter(|(_, _, peer)| peer.connections > 0) else {
        return no_server();
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
    let weight = Weight::Fine.or_alarm(is_alarm);
    (weight, text, Some(at.into()))
}

pub(super) fn accept_queue(facts: &Facts<'_>) -> Answer {
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
    (Weight::Fine.or_alarm(is_full), text, None)
}

pub(super) fn ports(facts: &Facts<'_>) -> Answer {
    let busiest = facts
        .servers()
        .max_by_key(|(_, _, peer)| peer.time_wait + peer.open);
    let Some((at, name, peer)) = busiest else {
        return no_server();
    };
    let used = peer.time_wait + peer.open;
    let text = format!(
        "{used} of {PORTS} (the default) for {name}: {} open, {} closed by this end (in TIME_WAIT for a minute).",
        peer.open, peer.time_wait
    );
    let weight = Weight::Fine.or_alarm(used * 2 >= PORTS);
    (weight, text, Some(at.into()))
}

pub(super) fn leaks(facts: &Facts<'_>) -> Answer {
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
    (Weight::Note, text, worst.map(|(at, ..)| at.into()))
}
