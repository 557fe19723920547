//! Distributions as bars, two beside each other.

use std::{fmt::Write, time::Duration};

use flowcar::{otlp::names, view::quantity::duration};

use super::{Ink, Style, title};
use crate::{
    seen::{Distribution, Pod},
    truth::Truth,
};

/// Rows of a drawing, at most.
const ROWS: i32 = 7;
/// Columns of a drawing.
const WIDTH: usize = 48;
/// Columns of its longest bar.
const BAR: usize = 25;

const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// A drawing: lines of [`WIDTH`] columns, the bar of each apart, because its ink has no width.
struct Drawing(Vec<[String; 3]>);

pub(super) fn write(
    out: &mut String,
    shop: &Pod,
    web: &Pod,
    truth: &Truth,
    style: Style,
) -> std::fmt::Result {
    let note = "from the metrics: what the kernel measured, in OTLP's exponential buckets";
    title(out, style, "DISTRIBUTIONS", note)?;
    let of = Pod::distribution;
    let link = |median: Duration| format!(" (the link: {})", duration(median.as_secs_f64()));
    let rtt = [
        Drawing::new(
            "round trips, seen from shop",
            &of(shop, names::RTT),
            &link(truth.requests.rtt),
        ),
        Drawing::new(
            "round trips, seen from web",
            &of(web, names::RTT),
            &link(truth.responses.rtt),
        ),
    ];
    let connect = of(shop, names::CONNECT);
    let other = [
        Drawing::new(
            "handshakes, seen from shop",
            &connect,
            &link(truth.handshake),
        ),
        Drawing::new(
            "connections, how long they lasted",
            &of(shop, names::DURATION),
            "",
        ),
    ];
    let exchanges = [
        Drawing::new(
            "request to response, as shop waits",
            &of(shop, names::EXCHANGE),
            "",
        ),
        Drawing::new(
            "request to response, as web serves",
            &of(web, names::EXCHANGE),
            "",
        ),
    ];
    for pair in [rtt, exchanges, other] {
        beside(out, &pair, style)?;
        writeln!(out)?;
    }
    Ok(())
}

fn beside(out: &mut String, [left, right]: &[Drawing; 2], style: Style) -> std::fmt::Result {
    let empty = || [" ".repeat(WIDTH), String::new(), String::new()];
    for row in 0..left.0.len().max(right.0.len()) {
        let mut line = String::new();
        for drawing in [left, right] {
            let [before, bar, after] = drawing.0.get(row).cloned().unwrap_or_else(empty);
            write!(line, "{before}{}{after}  ", style.paint(Ink::Bar, &bar))?;
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

// === impl Drawing ===

impl Drawing {
    fn new(name: &str, of: &Distribution, truth: &str) -> Self {
        let quantile = |q| of.quantile(q).map_or_else(|| "-".to_owned(), duration);
        let heads = [
            format!("{name}: {}", of.count()),
            format!("p50 {}{truth}, p99 {}", quantile(0.5), quantile(0.99)),
        ];
        let rows = of.rows(ROWS);
        let most = rows.iter().map(|(.., count)| *count).max().unwrap_or(1);
        let lines = rows.iter().map(|(lower, upper, count)| {
            let (bar, columns) = bar(*count, most);
            let before = format!("{:>6} - {:<6} ", duration(*lower), duration(*upper));
            let room = WIDTH - 16 - columns;
            [before, bar, format!("{:<room$}", format!(" {count}"))]
        });
        let heads = heads.map(|head| [format!("{head:<WIDTH$}"), String::new(), String::new()]);
        Self(heads.into_iter().chain(lines).collect())
    }
}

/// A bar and its columns. What is there is seen, however little it is.
fn bar(count: u64, most: u64) -> (String, usize) {
    let eighths = (count as usize * BAR * 8).div_ceil(most.max(1) as usize);
    let (whole, rest) = (eighths / 8, eighths % 8);
    let bar = "█".repeat(whole) + EIGHTHS[rest];
    (bar, whole + usize::from(rest > 0))
}
