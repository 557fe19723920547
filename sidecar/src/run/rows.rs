//! The rows that the report ends with: all of them as long as they are few, else those that somebody has to see.

use crate::view::{Row, longest_ns};

/// So many connections have a row each; of more, a table by peer says more than rows do.
const FEW: usize = 20;

/// Rows of failures, and of slow connections, among more than few.
const OUTLIERS: usize = 5;

/// The rows that are kept while the command runs.
#[derive(Default)]
pub(super) struct Rows {
    count: u64,
    /// The first ones.
    first: Vec<Row>,
    failures: u64,
    /// The first ones of those that were cut off or failed.
    failed: Vec<Row>,
    /// Of the others, by their longest time, nanoseconds, the slowest first.
    slowest: Vec<(u64, Row)>,
}

/// What is shown of them.
pub(super) enum Shown<'a> {
    /// All, in the order of their closes.
    All(&'a [Row]),
    /// Those that stand out.
    Outliers {
        /// How many were cut off or failed.
        failures: u64,
        /// The first ones of these.
        failed: &'a [Row],
        /// The slowest ones of the others.
        slowest: Vec<&'a Row>,
    },
}

// === impl Rows ===

impl Rows {
    /// Adds the row of a connection or an attempt.
    pub(super) fn add(&mut self, row: Row) {
        self.count += 1;
        if self.first.len() < FEW {
            self.first.push(row.clone());
        }
        if row.is_failure {
            self.failures += 1;
            if self.failed.len() < OUTLIERS {
                self.failed.push(row);
            }
            return;
        }
        let longest = longest_ns(row.connect_ns, row.rtt(), row.exchanges());
        let at = self.slowest.partition_point(|(time, _)| *time >= longest);
        if at < OUTLIERS {
            self.slowest.insert(at, (longest, row));
            self.slowest.truncate(OUTLIERS);
        }
    }

    /// What the report shows.
    pub(super) fn shown(&self) -> Shown<'_> {
        if self.count <= FEW as u64 {
            return Shown::All(&self.first);
        }
        Shown::Outliers {
            failures: self.failures,
            failed: &self.failed,
            slowest: self.slowest.iter().map(|(_, row)| row).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Anchor,
        flow::{Monotonic, example},
    };

    /// A connection whose handshake took so long, or an attempt.
    fn row(cookie: u32, connect_ns: u64, is_failure: bool) -> Row {
        let mut row = Row::of(&example::closed(cookie), &Anchor::new(Monotonic(0), 0));
        (row.connect_ns, row.is_failure) = (Some(connect_ns), is_failure);
        row
    }

    #[test]
    fn few_are_all_shown_in_their_order() {
        let mut rows = Rows::default();
        (0..20).for_each(|cookie| rows.add(row(cookie, 5, cookie == 19)));
        let Shown::All(all) = rows.shown() else {
            panic!("20 are few");
        };
        assert!(all.iter().map(|row| row.cookie).eq(0..20));
    }

    #[test]
    fn of_many_the_failed_and_the_slowest_are_shown() {
        let mut rows = Rows::default();
        // The first failures, and the slowest ones, are the last to come.
        (0..40).for_each(|cookie| rows.add(row(cookie, 1_000_000_000 + u64::from(cookie), false)));
        (40..48).for_each(|cookie| rows.add(row(cookie, u64::MAX, true)));
        let Shown::Outliers {
            failures,
            failed,
            slowest,
        } = rows.shown()
        else {
            panic!("48 are many");
        };
        assert_eq!(failures, 8);
        assert!(failed.iter().map(|row| row.cookie).eq(40..45));
        assert!(slowest.iter().map(|row| row.cookie).eq((35..40).rev()));
    }
}
