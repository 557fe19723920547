//! One table, for pipes: the peers between two answers of each flowcar. Pure.

use std::collections::BTreeMap;

use super::{
    columns::{Cell, WIDE, line_text, peer_cells, peer_texts},
    draw::Screen,
    merged::Merged,
    palette::Palette,
    state::State,
};
use crate::answer::Answer;

/// Answers that are awaited of each flowcar: the first one has it add up its idle connections, and rates are of the time between two.
const ANSWERS: usize = 3;

/// The table.
#[derive(Debug, Default)]
pub struct Once {
    merged: Merged,
    answers: BTreeMap<String, usize>,
}

impl Once {
    /// Takes an answer of a flowcar in.
    pub fn take(&mut self, source: &str, answer: Answer) {
        let known = self.answers.entry(source.to_owned()).or_default();
        if *known < ANSWERS {
            *known += 1;
            self.merged.take(source, answer);
        }
    }

    /// How many flowcars have answered often enough.
    pub fn complete(&self) -> usize {
        let counts = self.answers.values();
        counts.filter(|count| **count == ANSWERS).count()
    }

    /// The sums, a head, and a row for each peer, the busiest first. Names are not cut. `has_pods`: how many pods have each.
    pub fn lines(&mut self, has_pods: bool) -> Vec<String> {
        self.merged.refresh();
        let screen = Screen {
            merged: &self.merged,
            has_pods,
            notes: &[],
            palette: Palette(false),
        };
        let rows = State::default().peers(&self.merged);
        let names = rows.iter().map(|(_, row)| row.key.name.chars().count());
        let mut cells = peer_cells(WIDE, has_pods);
        // One answer has no sparkline.
        cells.pop();
        cells[0].width = names.max().unwrap_or(0).max(24) + 1;
        let heads: Vec<_> = cells
            .iter()
            .map(|of| (of.head, of.head.to_owned()))
            .collect();
        let line = |texts: &[(&'static str, String)], cells: &[Cell]| {
            line_text(cells, texts).trim_end().to_owned()
        };
        let mut lines = vec![screen.sums(), line(&heads, &cells)];
        lines.extend(rows.iter().map(|(_, row)| line(&peer_texts(row), &cells)));
        if rows.is_empty() {
            lines.push("no connections yet".to_owned());
        }
        lines
    }
}
