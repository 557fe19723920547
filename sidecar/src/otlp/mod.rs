//! Snapshots and flows as OTLP, and their export.
//!
//! `names`, `metrics`, `spans`, `log_records`, `exemplars` and `resource` are pure; `connect` makes connections, `grpc`, `http` and
//! `http_spans` are the `transport` over them, `remote` chooses by the target's protocol, `answer` decodes answers, `speech` detects a receiver of another protocol by its first bytes;
//! the main loop uses `exporter`, `flowcar check --send` uses `trial`.

pub mod answer;
mod attributes;
mod body;
mod connect;
pub mod error;
pub mod exemplars;
pub mod exporter;
mod grpc;
mod http;
mod http_spans;
mod log_records;
pub mod metrics;
pub mod names;
mod no_answer;
mod points;
pub mod quote;
mod redirect;
mod remote;
pub mod resource;
mod retry;
pub mod spans;
pub mod speech;
mod split;
mod transport;
pub mod trial;
pub mod values;

/// The user agent of requests.
const USER_AGENT_NAME: &str = concat!("flowcar/", env!("CARGO_PKG_VERSION"));
