//! One connection as one trace.

use std::fmt::Write;

use flowcar::{
    otlp::names::attribute,
    view::quantity::{bytes, duration},
};
use opentelemetry_proto::tonic::trace::v1::Span;

use super::{Ink, Style, title};
use crate::seen::{Pair, integer, seconds, text};

/// Columns of the whole time.
const WIDTH: usize = 40;

pub(super) fn write(out: &mut String, pairs: &[Pair<'_>], style: Style) -> std::fmt::Result {
    let Some(pair) = pairs.iter().max_by_key(|pair| troubles(pair)) else {
        return Ok(());
    };
    let Pair { client, server } = pair;
    let id = hex(&client.trace_id);
    title(
        out,
        style,
        "ONE TRACE, TWO PODS",
        &format!("{id}; nothing was propagated"),
    )?;
    let from = client.start_time_unix_nano.min(server.start_time_unix_nano);
    let to = client.end_time_unix_nano.max(server.end_time_unix_nano);
    for (name, span) in [("shop     client", client), ("`- web   server", server)] {
        let label = format!("{name}  {}", span.name);
        let bar = style.paint(Ink::Bar, &timeline(span, from, to));
        let starts = duration(span.start_time_unix_nano.saturating_sub(from) as f64 / 1e9);
        let lasts = duration(
            span.end_time_unix_nano
                .saturating_sub(span.start_time_unix_nano) as f64
                / 1e9,
        );
        writeln!(out, "  {label:<26}{bar} at {starts:>6} for {lasts:>6}")?;
    }
    let head = format!("  {:<34}{:>20}{:>20}", "", "shop", "web");
    writeln!(out, "{}", style.paint(Ink::Faint, &head))?;
    for (name, show) in ATTRIBUTES {
        writeln!(
            out,
            "  {name:<34}{:>20}{:>20}",
            show(client, name),
            show(server, name)
        )?;
    }
    writeln!(out)
}

/// How to show an attribute.
type Show = fn(&Span, &str) -> String;

const ATTRIBUTES: &[(&str, Show)] = &[
    ("span id", |span, _| hex(&span.span_id)),
    ("parent span id", |span, _| {
        match span.parent_span_id.is_empty() {
            true => "-".to_owned(),
            false => hex(&span.parent_span_id),
        }
    }),
    (attribute::PEER_ADDRESS, words),
    (attribute::PEER_PORT, number),
    (attribute::BYTES_SENT, size),
    (attribute::BYTES_RECEIVED, size),
    (attribute::RETRANSMITS, number),
    (attribute::CONNECT_DURATION, time),
    (attribute::RTT_MIN, time),
    (attribute::RTT_P50, time),
    (attribute::RTT_P99, time),
    (attribute::EXCHANGES, number),
    (attribute::EXCHANGE_P50, time),
    (attribute::EXCHANGE_P99, time),
    (attribute::CLOSE_REASON, words),
];

fn words(span: &Span, key: &str) -> String {
    text(&span.attributes, key).unwrap_or("-").to_owned()
}

fn number(span: &Span, key: &str) -> String {
    integer(span, key).to_string()
}

fn size(span: &Span, key: &str) -> String {
    bytes(integer(span, key))
}

fn time(span: &Span, key: &str) -> String {
    seconds(span, key).map_or_else(|| "-".to_owned(), duration)
}

/// Retransmits of both ends.
fn troubles(pair: &Pair<'_>) -> u64 {
    integer(pair.client, attribute::RETRANSMITS) + integer(pair.server, attribute::RETRANSMITS)
}

fn timeline(span: &Span, from: u64, to: u64) -> String {
    let whole = to.saturating_sub(from).max(1) as f64;
    let place = |at: u64| (at.saturating_sub(from) as f64 / whole * WIDTH as f64).round() as usize;
    let start = place(span.start_time_unix_nano).min(WIDTH - 1);
    let end = place(span.end_time_unix_nano).clamp(start + 1, WIDTH);
    format!(
        "{}{}{}",
        " ".repeat(start),
        "█".repeat(end - start),
        " ".repeat(WIDTH - end)
    )
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
