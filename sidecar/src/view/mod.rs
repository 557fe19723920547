//! Flows for people and for scripts: one row, or one line of JSON, for each that ended. Pure.

pub mod json;
pub mod quantity;
pub mod table;
