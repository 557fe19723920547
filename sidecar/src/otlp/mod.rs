//! From snapshots and flows to OTLP, and on to a receiver.
//!
//! `names`, `metrics`, `spans` and `resource` are pure; `grpc`, `http` and `span_client` are the transports;
//! `exporter` is what the main loop talks to.

pub mod error;
pub mod exporter;
mod grpc;
mod http;
pub mod metrics;
pub mod names;
pub mod resource;
mod retry;
mod span_client;
pub mod spans;

/// What requests call their sender.
const USER_AGENT_NAME: &str = concat!("flowcar/", env!("CARGO_PKG_VERSION"));
