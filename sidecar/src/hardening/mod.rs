//! What flowcar takes from itself, so that whoever takes it over has little: memory that nobody else may read, no core dump, and once
//! programs are attached no right.

mod start;

pub use start::{CoreLimit, at_start};
