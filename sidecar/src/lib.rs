//! flowcar follows one pod's TCP flows in the kernel and pushes them, with latency histograms, as OTLP
//! metrics and spans to any collector.
//!
//! ```text
//! kernel                                   userspace (one task owns source + flow table, no locks)
//! ------                                   ------------------------------------------------------
//! sock_ops -- connect/established/state/   source::ebpf --> flow::decode -> flow::Table -> series -> snapshot
//!   |         rtt/retransmit/rto            (ring buffer)     (pure)          (pure)       (pure)      |
//!   |  per-socket record in a seat or sk_storage                                |                      v
//!   +-> one record per open/sample/close                        finished flows  +--> otlp::spans   otlp::metrics
//!                                                                               |        |             |
//!                                                                               v        +-> grpc | http
//!                                                                  view: table, JSON
//! ```
//!
//! Data only walks to the right; nothing on the right is imported on the left. `flow`, `series`,
//! `snapshot`, `histogram` and the encoders of `otlp` are pure: no clock, no I/O; time comes in as an argument.

pub mod certs;
pub mod clock;
pub mod config;
pub mod exit;
pub mod export;
pub mod flow;
pub mod follower;
pub mod histogram;
pub mod logs;
pub mod otlp;
pub mod run;
pub mod scope;
pub mod series;
pub mod session;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod view;
