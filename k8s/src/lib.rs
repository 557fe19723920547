//! flowcar in Kubernetes: the mutating webhook and the `kubectl flowcar` plugin over one library.
//!
//! ```text
//! AdmissionReview -> admit -> inject (pure: Pod in, JSON patch out) -> response
//!                       \---> workload (pure: the opt-in copied into a template)
//! ```
//!
//! Both binaries are thin: `flowcar-controller` serves [`admit`] behind certificates that [`certs`] keeps
//! fresh, `kubectl-flowcar` runs the same pure functions over files and asks the cluster about the rest.

pub mod admit;
pub mod annotations;
pub mod budget;
pub mod certs;
pub mod cli;
pub mod client;
mod clock;
pub mod cluster;
pub mod config;
pub mod controller;
mod descriptors;
mod detect;
pub mod events;
pub mod fuzz;
pub mod inject;
mod lease;
pub mod metrics;
mod opted;
mod quantity;
mod rate;
pub mod serve;
mod text;
mod verify;
pub mod workload;
