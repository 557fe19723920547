//! Flows for people and for scripts: one row, or one line of JSON, for each. Pure.

pub mod json;
pub mod quantity;
pub mod table;

use crate::flow::Books;

/// The last line of a report.
#[derive(Clone, Debug)]
pub struct Sums {
    /// The closed books.
    pub books: Books,
    /// Sockets that may or may not be the command's; `None` where every socket's cgroup is known.
    pub unscoped: Option<u64>,
    /// The command's exit status.
    pub exit_status: i32,
}
