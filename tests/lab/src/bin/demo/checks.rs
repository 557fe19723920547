//! What must add up, whatever the link did.

use flowcar::otlp::names::{self, attribute};

use crate::{
    seen::{Pod, integer},
    testbed::{Played, SHOP, WEB},
};

/// What does not.
pub(crate) fn problems(played: &Played) -> Vec<String> {
    let mut problems = Vec::new();
    for (service, stopped) in &played.stopped {
        if !stopped.status.success() {
            let log = stopped.log.join("\n    ");
            problems.push(format!(
                "the flowcar of {service} ended with {}:\n    {log}",
                stopped.status
            ));
        }
        match played.seen.pod(service) {
            Some(pod) => problems.extend(books(service, pod)),
            None => problems.push(format!("nothing came from the flowcar of {service}")),
        }
    }
    problems.extend(ends(played));
    problems.extend(bytes(played));
    problems
}

fn books(service: &str, pod: &Pod) -> Option<String> {
    let [opened, closed, live, lost] = [names::OPENED, names::CLOSED, names::LIVE, names::LOST]
        .map(|metric| pod.total(metric, &[]));
    (opened != closed + live + lost || live != 0.0).then(|| {
        format!(
            "the books of {service}: {opened} opened, {closed} closed, {live} live, {lost} lost"
        )
    })
}

/// Every connection that a program made is a trace with both ends, and the other way round.
fn ends(played: &Played) -> Vec<String> {
    let mut problems = Vec::new();
    let made = played
        .applications
        .iter()
        .filter(|report| report.local.is_some())
        .count();
    let pairs = played.seen.pairs(SHOP, WEB).len();
    if pairs != made || made == 0 {
        problems.push(format!(
            "the programs made {made} connections; traces with two ends: {pairs}"
        ));
    }
    let failed = played.applications.len() - made;
    let seen = played
        .seen
        .pod(SHOP)
        .map_or(0.0, |pod| pod.total(names::FAILED, &[]));
    if seen != failed as f64 {
        problems.push(format!("{failed} attempts failed; flowcar counted {seen}"));
    }
    problems
}

/// Payload is what the programs sent and received, to the byte.
fn bytes(played: &Played) -> Vec<String> {
    let sum = |of: fn(&flowcar_lab::traffic::ConnectionReport) -> u64| {
        played.applications.iter().map(of).sum::<u64>()
    };
    let reported = [sum(|report| report.sent), sum(|report| report.received)];
    let ways = [attribute::BYTES_SENT, attribute::BYTES_RECEIVED];
    let seen = ways.map(|way| {
        let spans = played.seen.pod(SHOP).map_or(&[][..], |pod| &pod.spans);
        spans.iter().map(|span| integer(span, way)).sum::<u64>()
    });
    match seen == reported {
        true => Vec::new(),
        false => vec![format!(
            "the programs sent and received {reported:?} bytes; by the spans of {SHOP} it was {seen:?}"
        )],
    }
}
