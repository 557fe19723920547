//! The page of the connection that is followed.

use ratatui::{style::Color, text::Line};

use super::{
    by_type::{self, ByType},
    columns::{rate_bytes, sparkline},
    followed::{Followed, Standing},
    palette::Palette,
};
use crate::quantity::{bytes, duration};

/// The width of what stands before a sparkline.
const BEFORE_SPARK: usize = 50;

/// The sentence that names the connection.
pub(super) fn title(followed: &Followed, has_pods: bool) -> String {
    let counts = &followed.connection.counts;
    let pod = match has_pods {
        true => format!(" in {}", followed.source),
        false => String::new(),
    };
    let name = &followed.peer.name;
    format!(
        "following {} to {} ({name}){pod}",
        counts.local, counts.peer
    )
}

/// All that is known of it, the most important first: a low terminal has no room for the last lines.
pub(super) fn lines(followed: &Followed, palette: Palette, width: usize) -> Vec<Line<'static>> {
    let (connection, counts) = (&followed.connection, &followed.connection.counts);
    let time = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), |ns| duration(ns as f64 / 1e9));
    let is_open = followed.standing == Standing::Open;
    let close = followed.close();
    let (sent, received, segments) = match close {
        Some(close) => (close.bytes_sent, close.bytes_received, close.segments_sent),
        None => (
            counts.bytes_sent,
            counts.bytes_received,
            counts.segments_sent,
        ),
    };
    let rate = |rate: f64| match is_open {
        true => format!("{}/s", rate_bytes(rate)),
        false => String::new(),
    };
    let room = width.saturating_sub(BEFORE_SPARK);
    let with_spark = |text: String, values| {
        let spark = sparkline(values, room);
        format!("{text:<BEFORE_SPARK$}{spark}")
    };
    let now = connection.rtt_s.filter(|_| is_open);
    let now = now.map_or_else(|| "-".to_owned(), duration);
    let (p50, p99) = (time(counts.rtt_p50_ns), time(counts.rtt_p99_ns));
    let mut lines = vec![
        state(followed, palette),
        Line::styled(
            format!("held back    {}", connection.held_back.word()),
            palette.of(connection.held_back),
        ),
        Line::from(with_spark(
            format!("rtt          {now:<10}p50 {p50:<9}p99 {p99:<9}"),
            &followed.rtt,
        )),
        Line::from(with_spark(
            format!(
                "received     {:<10}{}",
                bytes(received),
                rate(connection.received)
            ),
            &followed.received,
        )),
        Line::from(with_spark(
            format!("sent         {:<10}{}", bytes(sent), rate(connection.sent)),
            &followed.sent,
        )),
    ];
    let row = |label, (types, sum)| by_type::Row {
        label,
        of: ByType::of(types, sum, 1.0),
        text: by_type::count,
    };
    let table = by_type::table([
        row("since opened", followed.retransmits()),
        row("while followed", followed.new_retransmits()),
    ]);
    lines.extend(table.into_iter().map(Line::from));
    lines.push(Line::from(format!("segments     {segments} sent")));
    lines.push(Line::from(format!(
        "exchange     p99 {}",
        time(counts.exchange_p99_ns)
    )));
    lines.push(Line::from(format!(
        "process      {}",
        counts.process.as_deref().unwrap_or("-")
    )));
    lines
}

fn state(followed: &Followed, palette: Palette) -> Line<'static> {
    let time = |ns: u64| duration(ns as f64 / 1e9);
    match &followed.standing {
        Standing::Open => {
            let text = followed.connection.counts.duration_ns.map(time);
            let text = text.map_or_else(String::new, |text| format!(" for {text}"));
            Line::from(format!("state        open{text}"))
        }
        Standing::Closed(Some(close)) => {
            let after = close.duration_ns.map(time);
            let after = after.map_or_else(String::new, |text| format!(" after {text}"));
            let reason = &close.reason;
            let why = meaning(reason).map_or_else(String::new, |why| format!(": {why}"));
            let color = if close.is_failure {
                Color::Red
            } else {
                Color::Yellow
            };
            Line::styled(
                format!("state        closed{after}: {reason}{why}"),
                palette.coloured(color),
            )
        }
        Standing::Closed(None) => Line::styled(
            "state        open no more: flowcar has no record of its close",
            palette.coloured(Color::Yellow),
        ),
        Standing::NoFlowcar => Line::styled(
            "state        not known: its flowcar has ended",
            palette.coloured(Color::Yellow),
        ),
    }
}

/// What a value of `flowcar.tcp.close.reason` means.
fn meaning(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "local_fin" => "this end sent the first FIN",
        "peer_fin" => "the peer sent the first FIN",
        "reset_sent" => "this end sent a RST",
        "reset_received" => "the peer sent a RST",
        "reset" => "a RST, and which end sent it was not seen",
        "timeout" => "a timer of the kernel expired",
        "unknown" => "it was not seen",
        _ => return None,
    })
}
