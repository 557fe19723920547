//! What had to be sent again, why, and whether the link agrees.

use std::fmt::Write;

use flowcar::otlp::names::{self, attribute};

use super::{Ink, Style, title};
use crate::{
    seen::Pod,
    truth::{Truth, Way},
};

/// The values of `flowcar.tcp.retransmit.type`.
const CAUSES: [&str; 6] = [
    "syn",
    "synack",
    "fast",
    "timeout",
    "tail_loss_probe",
    "unknown",
];

pub(super) fn write(
    out: &mut String,
    shop: &Pod,
    web: &Pod,
    truth: &Truth,
    style: Style,
) -> std::fmt::Result {
    let note = format!(
        "the link dropped {} of {} packets; pure ACKs need not come again",
        truth.dropped, truth.packets
    );
    title(out, style, "RETRANSMITS", &note)?;
    let [syn, synack, fast, timeout, probe, unknown] = CAUSES;
    let head = format!(
        "{:>6} {syn:>4} {synack:>7} {fast:>5} {timeout:>8} {probe:>16} {unknown:>8} {:>5}   {}",
        "", "all", "link: sent again, dropped"
    );
    writeln!(out, "{}", style.paint(Ink::Faint, &head))?;
    for (name, pod, way) in [
        ("shop", shop, truth.requests),
        ("web", web, truth.responses),
    ] {
        writeln!(out, "{}", row(name, pod, way))?;
    }
    writeln!(out)
}

fn row(name: &str, pod: &Pod, way: Way) -> String {
    let [syn, synack, fast, timeout, probe, unknown] =
        CAUSES.map(|cause| pod.total(names::RETRANSMITS, &[(attribute::RETRANSMIT_TYPE, cause)]));
    let all = pod.total(names::RETRANSMITS, &[]);
    let Way { again, dropped, .. } = way;
    format!(
        "{name:>6} {syn:>4} {synack:>7} {fast:>5} {timeout:>8} {probe:>16} {unknown:>8} {all:>5}   {again:>16}, {dropped:>7}"
    )
}
