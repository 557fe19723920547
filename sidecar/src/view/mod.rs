//! Flows for people and for scripts: one row, or one line of JSON, for each. Pure.

pub mod by_peer;
pub mod closed;
pub mod json;
pub mod peers;
mod retransmits;
mod row;
pub mod table;
pub mod times;

use std::collections::BTreeMap;

pub use flowcar_screen::{cut, quantity};
pub use row::{Row, Times, longest_ns};

use crate::flow::Books;

/// The last line of a report.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Connections opened or adopted.
    pub opened: u64,
    /// Connections closed.
    pub closed: u64,
    /// Connections open.
    pub live: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Connections lost, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Sockets that may or may not be the command's; `None` where every socket's cgroup is known.
    pub unscoped: Option<u64>,
    /// The command's exit status, where a command was run.
    pub exit_status: Option<i32>,
    /// Why there may be nothing to report, or less than the command did.
    pub hint: Option<String>,
}

// === impl Sums ===

impl Sums {
    /// Connections lost for any reason.
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Whether there was certainly neither a connection nor an attempt.
    pub fn is_nothing(&self) -> bool {
        self.opened == 0 && self.failed == 0 && self.unscoped.unwrap_or(0) == 0
    }
}

impl From<&Books> for Sums {
    fn from(books: &Books) -> Self {
        let lost = books.lost.iter();
        Self {
            opened: books.opened,
            closed: books.closed,
            live: books.live,
            failed: books.failed,
            lost: lost
                .map(|(reason, count)| (reason.name().to_owned(), *count))
                .collect(),
            ..Self::default()
        }
    }
}
