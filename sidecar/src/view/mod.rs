//! Flows for people and for scripts: one row, or one line of JSON, for each. Pure.

pub mod json;
pub mod quantity;
pub mod table;

use crate::flow::Books;

/// What the last line of a report tells.
#[derive(Clone, Debug)]
pub struct Sums {
    /// Where every connection is.
    pub books: Books,
    /// Sockets that may have been of the command or not; `None` where none can be.
    pub unscoped: Option<u64>,
    /// The command's.
    pub exit_status: i32,
}
