//! Every connection, from both its ends.

use std::fmt::Write;

use flowcar::{
    otlp::names::attribute,
    view::quantity::{bytes, duration},
};
use opentelemetry_proto::tonic::trace::v1::Span;

use super::{Ink, Style, title};
use crate::{
    seen::{Pair, integer, seconds, text},
    testbed::{Played, SHOP},
};

pub(super) fn write(
    out: &mut String,
    played: &Played,
    pairs: &[Pair<'_>],
    style: Style,
) -> std::fmt::Result {
    title(
        out,
        style,
        "FLOWS",
        "one span from each pod, joined by trace id; sent = received at the other end",
    )?;
    let head = format!(
        "{:>4}{:>9} {:>7}  {:^15}  {:^15}  {:^7}  {:^13}  {}",
        "port",
        "duration",
        "connect",
        "shop = web",
        "web = shop",
        "retrans",
        "rtt p50",
        "close (shop)"
    );
    writeln!(out, "{}", style.paint(Ink::Faint, &head))?;
    let spans = played.seen.pod(SHOP).map_or(&[][..], |pod| &pod.spans);
    for client in spans {
        let pair = pairs
            .iter()
            .find(|pair| pair.client.span_id == client.span_id);
        let server = pair.map(|pair| pair.server);
        writeln!(
            out,
            "{}",
            style.paint(ink(client, server), &row(client, server))
        )?;
    }
    let sum = |report: fn(&flowcar_lab::traffic::ConnectionReport) -> u64| {
        played.applications.iter().map(report).sum::<u64>()
    };
    let seen = |way| spans.iter().map(|span| integer(span, way)).sum::<u64>();
    let (sent, received) = (seen(attribute::BYTES_SENT), seen(attribute::BYTES_RECEIVED));
    writeln!(
        out,
        "      {sent} bytes there and {received} back; the programs' own counts: {} and {}",
        sum(|r| r.sent),
        sum(|r| r.received)
    )?;
    writeln!(out)
}

fn row(client: &Span, server: Option<&Span>) -> String {
    let time = |span: Option<&Span>, key| {
        span.and_then(|span| seconds(span, key))
            .map_or_else(|| "-".to_owned(), duration)
    };
    let count = |span: Option<&Span>, key| {
        span.map_or_else(|| "-".to_owned(), |span| integer(span, key).to_string())
    };
    let both = |from: Option<&Span>, to: Option<&Span>| {
        let size = |span: Option<&Span>, key| {
            span.map_or_else(|| "-".to_owned(), |span| bytes(integer(span, key)))
        };
        let (sent, received) = (
            size(from, attribute::BYTES_SENT),
            size(to, attribute::BYTES_RECEIVED),
        );
        format!("{sent:>6} = {received:<6}")
    };
    let duration_ns = client
        .end_time_unix_nano
        .saturating_sub(client.start_time_unix_nano);
    let client_too = Some(client);
    format!(
        "{:>5} {:>7} {:>7}  {}  {}  {:>3} {:>3}  {:>6} {:>6}  {}",
        integer(client, attribute::CLIENT_PORT),
        duration(duration_ns as f64 / 1e9),
        time(client_too, attribute::CONNECT_DURATION),
        both(client_too, server),
        both(server, client_too),
        count(client_too, attribute::RETRANSMITS),
        count(server, attribute::RETRANSMITS),
        time(client_too, attribute::RTT_P50),
        time(server, attribute::RTT_P50),
        text(&client.attributes, attribute::CLOSE_REASON)
            .or(text(&client.attributes, attribute::ERROR_TYPE))
            .unwrap_or("-"),
    )
}

fn ink(client: &Span, server: Option<&Span>) -> Ink {
    let retransmits = |span: &Span| integer(span, attribute::RETRANSMITS);
    if text(&client.attributes, attribute::ERROR_TYPE).is_some() {
        Ink::Bad
    } else if retransmits(client) + server.map_or(0, retransmits) > 0 {
        Ink::Warning
    } else {
        Ink::Good
    }
}
