//! What flowcar exports, as the receivers that its users have see it: the Collector, Prometheus and Jaeger.
//! The figures and flows are made by hand, so that every value is known. The receivers work, follow a script, are
//! stopped, killed and started again, or require certificates.

mod answering;
mod answers;
mod backoff;
mod collector;
mod exemplars;
mod faults;
mod jaeger;
mod monitored;
mod monitoring;
mod mounted;
mod names;
mod outages;
mod prometheus;
mod questions;
mod sample;
mod scripted;
mod sizes;
mod span_metrics;
mod tls;
mod totals;
