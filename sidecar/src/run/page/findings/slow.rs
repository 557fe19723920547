//! Which peer is slow, and whether the network or the server makes it so.

use super::{super::peers::PeerSum, Answer, Facts, Weight, no_exchanges, no_server, unknown};
use crate::{histogram::Histogram, view::quantity::duration};

pub(super) fn slow_peer(facts: &Facts<'_>) -> Answer {
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
        return (Weight::Alarm, text, Some(at.into()));
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
            (Weight::Alarm, text, Some(at.into()))
        }
        None if !facts.exchanges => {
            text += " Exchanges were not measured: a slow server does not show.";
            (Weight::Note, text, Some(at.into()))
        }
        None => (Weight::Fine, text, Some(at.into())),
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
            let weight = Weight::Fine.or_alarm(p50 >= 0.1);
            (weight, text, Some(at.into()))
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

/// Times that each half of the run has to have for the halves to be compared.
const ENOUGH: u64 = 20;

/// Times as long in the second half from which on that is a note, and a problem. The halves are those of heat maps, whose rows are 1.4
/// times as wide as the one before, and medians of so few times differ by chance, too.
const NOTED: f64 = 2.9;
const ALARMING: f64 = 4.0;

pub(super) fn slower(facts: &Facts<'_>) -> Answer {
    let median = |of: &Histogram| of.quantile_s(0.5).filter(|_| of.count() >= ENOUGH);
    let compared = facts.named().filter_map(|(at, name, _)| {
        let [first, second] = facts.halves.get(at)?.as_ref()?;
        Some((at, name, median(first)?, median(second)?))
    });
    let rank = |first: f64, second: f64| second / first.max(1e-9);
    let most = compared.max_by(|(_, _, one, two), (_, _, other_one, other_two)| {
        rank(*one, *two).total_cmp(&rank(*other_one, *other_two))
    });
    let what = if facts.exchanges {
        "answers"
    } else {
        "round trips"
    };
    let Some((at, name, first, second)) = most else {
        return unknown(&format!(
            "No peer has {ENOUGH} {what} in each half of the run."
        ));
    };
    let times = if second < 0.01 {
        0.0
    } else {
        rank(first, second)
    };
    let text = format!(
        "{name}: half of its {what} took about {} or longer in the first half of the run, and {} in the second.",
        duration(first),
        duration(second)
    );
    (
        Weight::of_times(times, NOTED, ALARMING),
        text,
        Some(at.into()),
    )
}

pub(super) fn network_or_server(facts: &Facts<'_>) -> Answer {
    let ranked = facts.ranked(|peer| &peer.exchanges);
    match ranked.first() {
        Some((at, name, peer, _)) => match cause(peer) {
            Some(cause) => (Weight::Fine, format!("{name}. {cause}"), Some((*at).into())),
            None => unknown("The slowest peer's connections have no round trip time."),
        },
        None if facts.servers().next().is_none() => no_server(),
        None if facts.exchanges => unknown("No server answered."),
        None => no_exchanges(),
    }
}
