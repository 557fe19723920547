//! flowcar follows one pod's TCP flows in the kernel and pushes them, with latency histograms, as OTLP
//! metrics and spans to any collector.
//!
//! ```text
//! kernel                                  userspace (one task owns sources + flow table, no locks)
//! ------                                  ---------------------------------------------------------
//! sock_ops -- connect/established/state/  source::ebpf --> flow::decode --+
//!   |         rtt/retransmit/rto          (ring buffer)     (pure)        |
//!   |  per-socket record: seat or storage                                 +--> flow::Table -> series -> snapshot
//!   +-> one record per open/sample/close                                  |      (pure)       (pure)      |
//! sock_release - attempts that are given up                               |        |                      |
//! cgroup_skb - turns, if they are asked for                               |        |                      v
//! inet_diag - every socket's tcp_info, -> source::diag --> flow::Sight ---+        |                otlp::metrics
//!             and the last one of each    (netlink)         (pure)                 v                      |
//!             that ends                                         finished flows --> otlp::spans --> grpc | http
//!                                                                              +-> view: table, JSON
//! ```
//!
//! The two sources join by the socket's cookie. Records tell of what begins under the programs' eyes; looks feed those
//! flows between records, add what is older, and take off the list what ended unheard. Where the programs are refused,
//! looks are all there is.
//!
//! What a report told of that a receiver took is left for the flowcar after this one (`flow::handover`, kept in a file by
//! `handover`): it counts connections that are still open from there, and those that are not as lost to the restart.
//!
//! Data only walks to the right; nothing on the right is imported on the left. `flow`, `series`,
//! `snapshot`, `histogram` and the encoders of `otlp` are pure: no clock, no I/O; time comes in as an argument.

pub mod admin;
pub mod certs;
pub mod check;
pub mod clock;
pub mod config;
pub mod exit;
pub mod export;
pub mod files;
pub mod flow;
pub mod follower;
pub mod handover;
pub mod hardening;
pub mod histogram;
pub mod host;
pub mod logs;
pub mod losses;
pub mod memory;
pub mod otlp;
pub mod rights;
pub mod run;
pub mod scope;
pub mod series;
pub mod session;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod surroundings;
pub mod view;
