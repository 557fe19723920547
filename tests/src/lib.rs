//! The common code of flowcar's tests. Nothing in here is a second copy of product code: it makes the
//! independent truth that the product is held against.

pub mod browser;
pub mod cluster;
pub mod exporting;
pub mod flowcar;
pub mod forged;
pub mod interrupt;
pub mod link;
mod log_lines;
pub mod monitoring;
pub mod node;
pub mod peers;
pub mod place;
pub mod receiver;
pub mod sidecar;
pub mod states;
pub mod terminal;
pub mod test_names;
pub mod traffic;
pub mod usage;
pub mod watch;
