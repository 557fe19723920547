//! What flowcar exports, as the receivers that its users have see it: the Collector, Prometheus and Jaeger.
//! The figures and flows are made by hand, so that every value is known.

mod collector;
mod jaeger;
mod prometheus;
mod sample;
