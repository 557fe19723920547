//! Segments sent again, by type. Pure.

use crate::{answer::RetransmitCounts, quantity::bytes};

/// The width of the first column.
const LABEL: usize = 14;

/// The head of the sums without types.
const NO_TYPE: &str = "no type";

/// Segments sent again by `flowcar.tcp.retransmit.type`: counts, or so many a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ByType {
    /// In the order of [`RetransmitCounts::named`]; `None` where no flowcar sends them.
    types: Option<[f64; 6]>,
    /// Those of older flowcars, which have the sum alone.
    no_type: f64,
}

impl ByType {
    /// Those of one flowcar, in so many seconds: 1 for counts.
    pub(super) fn of(by_type: Option<RetransmitCounts>, sum: u64, seconds: f64) -> Self {
        let rate = |count: u64| match count {
            0 => 0.0,
            count => count as f64 / seconds,
        };
        Self {
            types: by_type.map(|of| of.named().map(|(_, count)| rate(count))),
            no_type: by_type.map_or_else(|| rate(sum), |_| 0.0),
        }
    }

    /// Adds those of another flowcar.
    pub(super) fn add(&mut self, other: Self) {
        self.no_type += other.no_type;
        self.types = match (self.types, other.types) {
            (Some(mut all), Some(other)) => {
                all.iter_mut().zip(other).for_each(|(sum, of)| *sum += of);
                Some(all)
            }
            (one, other) => one.or(other),
        };
    }
}

/// A row of the table: its label, its values, and how each is written.
pub(super) struct Row<'a> {
    pub(super) label: &'a str,
    pub(super) of: ByType,
    pub(super) text: fn(f64) -> String,
}

/// A head, and a line for each of these, in at most 78 columns.
pub(super) fn table<const ROWS: usize>(rows: [Row<'_>; ROWS]) -> Vec<String> {
    let knows_types = rows.iter().any(|row| row.of.types.is_some());
    let has_no_type = !knows_types || rows.iter().any(|row| row.of.no_type > 0.0);
    // Where only one of the rows has types, nothing was added since.
    let none = if knows_types { "-" } else { "?" };
    let names = RetransmitCounts::default().named().map(|(name, _)| name);
    let no_type = has_no_type.then_some(NO_TYPE);
    let heads: Vec<&str> = names.into_iter().chain(no_type).collect();
    let line = |label: &str, cells: Vec<String>| {
        let mut line = format!("{label:<LABEL$}");
        for (head, cell) in heads.iter().zip(cells) {
            let width = (head.len() + 2).max(6);
            line.push_str(&format!("{cell:>width$}"));
        }
        line
    };
    let head = line(
        "retransmits",
        heads.iter().map(ToString::to_string).collect(),
    );
    let rows = rows.into_iter().map(|Row { label, of, text }| {
        let types = of
            .types
            .map_or_else(|| vec![none.to_owned(); 6], |of| of.map(text).to_vec());
        let no_type = has_no_type.then(|| text(of.no_type));
        line(label, types.into_iter().chain(no_type).collect())
    });
    std::iter::once(head).chain(rows).collect()
}

/// A count in at most five characters.
pub(super) fn count(count: f64) -> String {
    if count < 100_000.0 {
        return format!("{count:.0}");
    }
    bytes(count as u64).trim_end_matches('B').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: RetransmitCounts = RetransmitCounts {
        syn: 1,
        synack: 2,
        fast: 4,
        timeout: 8,
        tail_loss_probe: 16,
        unknown: 123_456,
    };

    fn drawn(label: &str, of: ByType) -> Vec<String> {
        let text = count;
        table([Row { label, of, text }])
    }

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn each_type_has_its_column() {
        let mut all = ByType::of(Some(COUNTS), COUNTS.total(), 1.0);
        all.add(ByType::of(Some(COUNTS), COUNTS.total(), 1.0));
        let lines = drawn("in all", all);
        let types = "retransmits syn synack fast timeout tail_loss_probe unknown";
        assert_eq!(words(&lines[0]), words(types));
        assert_eq!(words(&lines[1]), words("in all 2 4 8 16 32 247k"));
        assert!(lines.iter().all(|line| line.len() <= 78), "{lines:?}");
    }

    #[test]
    fn sum_of_an_older_flowcar_has_no_type() {
        let older = ByType::of(None, 30, 10.0);
        let lines = drawn("a second", older);
        assert!(lines[0].ends_with("unknown  no type"), "{lines:?}");
        assert_eq!(words(&lines[1]), words("a second ? ? ? ? ? ? 3"));
        let mut both = ByType::of(Some(COUNTS), COUNTS.total(), 1.0);
        both.add(older);
        let lines = drawn("both", both);
        assert_eq!(words(&lines[1]), words("both 1 2 4 8 16 123k 3"));
        assert!(lines.iter().all(|line| line.len() <= 78), "{lines:?}");
        // Without any retransmit there is nothing without a type.
        let none = drawn("none", ByType::of(Some(COUNTS), 0, 1.0));
        assert!(!none[0].contains(NO_TYPE), "{none:?}");
    }
}
