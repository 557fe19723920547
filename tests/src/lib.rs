//! The common code of flowcar's tests: pods, links and applications of [`flowcar_lab`], real peers, and what flowcar sends.

pub mod browser;
pub mod cluster;
pub mod monitoring;
pub mod node;
pub mod peers;
pub mod states;
pub mod terminal;
pub mod test_names;
pub mod watch;

pub use flowcar_lab::{
    exporting, flowcar, forged, interrupt, link, place, receiver, sidecar, traffic, usage,
};
