//! Pods on an emulated link, applications in them, and a flowcar beside each: what `make demo` and `make bench` run, and what tests start.
//! Nothing in here is a second copy of product code: it makes the independent truth that the product is held against.

pub mod exporting;
pub mod flowcar;
pub mod forged;
pub mod interrupt;
pub mod link;
pub mod log_lines;
pub mod place;
pub mod receiver;
pub mod sidecar;
pub mod traffic;
pub mod usage;
