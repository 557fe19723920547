//! Where every connection is, and what watching them cost.

use std::fmt::Write;

use flowcar::{
    otlp::names::{self, Metric},
    view::quantity::{bytes, duration},
};

use super::{Ink, Style, title};
use crate::seen::Pod;

pub(super) fn write(out: &mut String, pods: [(&str, &Pod); 2], style: Style) -> std::fmt::Result {
    title(
        out,
        style,
        "BOOKS",
        "every connection is accounted for, by each flowcar's own count",
    )?;
    let head = format!(
        "{:>6} {:>6}   {:>6}   {:>4}   {:>4} {:>8} {:>7} {:>17} {:>13} {:>8}",
        "",
        "opened",
        "closed",
        "live",
        "lost",
        "failed",
        "spans",
        "records (dropped)",
        "CPU",
        "memory"
    );
    writeln!(out, "{}", style.paint(Ink::Faint, &head))?;
    for (name, pod) in pods {
        writeln!(out, "{}", row(name, pod))?;
    }
    if cfg!(debug_assertions) {
        let note = "       CPU and memory of a debug build, which compiles faster; make build builds what is to be used";
        writeln!(out, "{}", style.paint(Ink::Faint, note))?;
    }
    writeln!(out)
}

fn row(name: &str, pod: &Pod) -> String {
    let total = |metric: Metric| pod.total(metric, &[]);
    let records = format!(
        "{} ({})",
        total(names::SELF_RECORDS),
        total(names::SELF_RECORDS_DROPPED)
    );
    format!(
        "{name:>6} {:>6} = {:>6} + {:>4} + {:>4} {:>8} {:>7} {records:>17} {:>13} {:>8}",
        total(names::OPENED),
        total(names::CLOSED),
        total(names::LIVE),
        total(names::LOST),
        total(names::FAILED),
        pod.spans.len(),
        duration(total(names::SELF_CPU)),
        bytes(total(names::SELF_RSS) as u64),
    )
}
