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

/// Before each value stands its label.
const LABEL: usize = 13;

/// The sentence that names the connection by its addresses, where they have room in so many columns; else by its own address alone.
pub(super) fn title(followed: &Followed, width: usize) -> String {
    let counts = &followed.connection.counts;
    let whole = format!("following {} to {}", counts.local, counts.peer);
    match whole.len() <= width {
        true => whole,
        false => format!("following {}", counts.local),
    }
}

/// The page below its title.
pub(super) struct Page<'a> {
    pub(super) followed: &'a Followed,
    /// The flowcars are those of pods, which have names.
    pub(super) has_pods: bool,
    pub(super) palette: Palette,
    /// Columns.
    pub(super) width: usize,
}

impl Page<'_> {
    /// All that is known of it, the most important first: a low terminal has no room for the last lines.
    pub(super) fn lines(&self) -> Vec<Line<'static>> {
        let mut lines = figures(self.followed, self.palette, self.width);
        lines.extend(self.names());
        lines.extend(rest(self.followed));
        lines
    }

    /// The peer and the pod. A name that is longer than the line has several.
    fn names(&self) -> Vec<Line<'static>> {
        let peer = &self.followed.connection.counts.peer;
        let name = &self.followed.peer.name;
        let peer = match title(self.followed, self.width).contains(" to ") {
            true => name.clone(),
            false => format!("{peer} ({name})"),
        };
        let pod = self.has_pods.then(|| self.followed.source.clone());
        let named = [("peer", Some(peer)), ("pod", pod)].into_iter();
        let named = named.filter_map(|(label, text)| Some((label, text?)));
        named
            .flat_map(|(label, text)| wrapped(label, &text, self.width))
            .collect()
    }
}

/// A label, and a text in as many lines as it needs.
fn wrapped(label: &str, text: &str, width: usize) -> Vec<Line<'static>> {
    let room = width.saturating_sub(LABEL).max(1);
    let text: Vec<char> = text.chars().collect();
    let parts = text.chunks(room).enumerate().map(|(at, part)| {
        let label = if at == 0 { label } else { "" };
        let part: String = part.iter().collect();
        Line::from(format!("{label:<LABEL$}{part}"))
    });
    parts.collect()
}

/// Its state, what it carries, and its retransmits.
fn figures(followed: &Followed, palette: Palette, width: usize) -> Vec<Line<'static>> {
    let (connection, counts) = (&followed.connection, &followed.connection.counts);
    let is_open = followed.standing == Standing::Open;
    let close = followed.close();
    let (sent, received) = match close {
        Some(close) => (close.bytes_sent, close.bytes_received),
        None => (counts.bytes_sent, counts.bytes_received),
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
    lines
}

/// What else is known of it.
fn rest(followed: &Followed) -> [Line<'static>; 3] {
    let counts = &followed.connection.counts;
    let close = followed.close();
    let segments = close.map_or(counts.segments_sent, |close| close.segments_sent);
    let exchange = time(counts.exchange_p99_ns);
    let process = counts.process.as_deref().unwrap_or("-");
    [
        Line::from(format!("segments     {segments} sent")),
        Line::from(format!("exchange     p99 {exchange}")),
        Line::from(format!("process      {process}")),
    ]
}

/// A duration of so many nanoseconds, where it is known.
fn time(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".to_owned(), |ns| duration(ns as f64 / 1e9))
}

fn state(followed: &Followed, palette: Palette) -> Line<'static> {
    let time = |ns: u64| duration(ns as f64 / 1e9);
    let unsure = |text: &str| {
        Line::styled(
            format!("state        {text}"),
            palette.coloured(Color::Yellow),
        )
    };
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
        Standing::Closed(None) => {
            unsure("open no more: not among the last closes that flowcar keeps")
        }
        Standing::NoPeer => unsure("not known: flowcar has no peer of this name any more"),
        Standing::NoAnswer => unsure("not known: flowcar does not answer"),
        Standing::NoFlowcar => unsure("not known: its flowcar answers no more"),
    }
}

/// What a value of `flowcar.tcp.close.reason` means.
fn meaning(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "local_fin" => "this end sent the first FIN",
        "peer_fin" => "the peer sent the first FIN",
        "reset_sent" => "this end sent a RST",
        "reset_received" => "the peer sent a RST",
        "reset" => "a RST: whose was not seen",
        "timeout" => "a timer of the kernel expired",
        "unknown" => "it was not seen",
        _ => return None,
    })
}
