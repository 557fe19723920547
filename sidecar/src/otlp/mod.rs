//! From snapshots and flows to OTLP, and on to a receiver.
//!
//! `names`, `metrics`, `spans`, `exemplars` and `resource` are pure; `connect` makes connections, `grpc`, `http` and
//! `span_client` talk over them, `answer` reads what comes back, `speech` tells a receiver of another kind by its first bytes;
//! `exporter` is what the main loop talks to, `trial` what `flowcar check --send` does.

pub mod answer;
mod body;
mod connect;
pub mod error;
pub mod exemplars;
pub mod exporter;
mod grpc;
mod http;
pub mod metrics;
pub mod names;
pub mod own;
mod points;
pub mod quote;
mod redirect;
pub mod resource;
mod retry;
mod span_client;
pub mod spans;
pub mod speech;
mod split;
pub mod trial;
pub mod values;

/// What requests call their sender.
const USER_AGENT_NAME: &str = concat!("flowcar/", env!("CARGO_PKG_VERSION"));
