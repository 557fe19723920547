//! From snapshots and flows to OTLP, and on to a receiver.
//!
//! `names`, `metrics`, `spans` and `resource` are pure; `grpc` and `http` are the transports; `exporter` is
//! what the main loop talks to.

pub mod metrics;
pub mod names;
pub mod resource;
pub mod spans;
