//! flowcar itself: whether what it exports is taken, and what it costs.

use super::{Answer, Facts, Weight, fine};
use crate::view::quantity::{bytes, duration};

/// Shares of a processor, and of the command's own CPU time, from which on flowcar's cost is a note.
const OF_PROCESSOR: f64 = 0.05;
const OF_COMMAND: f64 = 0.1;

pub(super) fn delivery(facts: &Facts<'_>) -> Answer {
    match facts.is_delivered {
        None => fine("No receiver is set (OTEL_EXPORTER_OTLP_ENDPOINT): nothing was exported."),
        Some(true) => fine(
            "The receiver took the last report, and the spans and log records that waited at the end.",
        ),
        Some(false) => {
            let text = "The receiver did not take all that was exported: flowcar's log on standard error has the reason.";
            (Weight::Alarm, text.to_owned(), None)
        }
    }
}

pub(super) fn cost(facts: &Facts<'_>) -> Answer {
    let (cost, took_s) = (facts.cost, facts.took_ns as f64 / 1e9);
    let (cpu_s, command_s) = (cost.cpu.as_secs_f64(), cost.command_cpu.as_secs_f64());
    let of_processor = cpu_s / took_s.max(1e-9);
    let text = format!(
        "flowcar took {} of CPU time in {}, {:.1} % of one processor, and had {} of memory. The command took {} of CPU time, in which most of the kernel's part of flowcar is.",
        duration(cpu_s),
        duration(took_s),
        of_processor * 100.0,
        bytes(cost.memory),
        duration(command_s)
    );
    let is_much = took_s >= 1.0 && of_processor >= OF_PROCESSOR && cpu_s >= OF_COMMAND * command_s;
    let weight = if is_much { Weight::Note } else { Weight::Fine };
    (weight, text, None)
}
