//! flowcar follows one pod's TCP flows in the kernel and pushes them, with latency histograms, as OTLP
//! metrics and spans to any collector.
//!
//! ```text
//! kernel                                  userspace (one task owns sources + flow table, no locks)
//! ------                                  ---------------------------------------------------------
//! sock_ops -- connect/established/state/  source::ebpf --> flow::decode --+
//!   |         rtt/retransmit/rto          (ring buffer)     (pure)        |
//!   |  per-socket record: slot or storage                                 +--> flow::Table -> series -> snapshot
//!   +-> one record per open/sample/close                                  |      (pure)       (pure)      |
//! sock_release - attempts that are abandoned                              |        |                      |
//! cgroup_skb - exchanges, if configured                                   |        |                      v
//! inet_diag - every socket's tcp_info, -> source::diag --> SocketSnapshot +        |                otlp::metrics
//!             and the last one of each    (netlink)         (pure)                 v                      |
//!             that closes                                       finished flows --> otlp::spans --> grpc | http
//!                                                                              +-> view: table, JSON
//! ```
//!
//! The two sources join by the socket's cookie. Records report the connections that open while the programs are attached; polls
//! update those flows between records, adopt older connections, and evict flows whose close was lost. Where the programs are
//! refused, polls are the only source.
//!
//! After each acknowledged report `session` writes a checkpoint (`flow::checkpoint`, kept in a file by `checkpoint`): the exporter only
//! publishes which report that is. The next flowcar counts connections that are still open from there, and those that are not as lost
//! to the restart.
//!
//! Data only flows to the right; nothing on the right is imported on the left. `flow`, `series`,
//! `snapshot`, `histogram` and the encoders of `otlp` are pure: no clock, no I/O; time comes in as an argument.

pub mod capabilities;
pub mod certs;
pub mod cgroup;
pub mod check;
pub mod checkpoint;
pub mod clock;
pub mod config;
pub mod confinement;
pub mod container_stats;
pub mod control;
pub mod exit;
pub mod export;
pub mod exporter_sockets;
pub mod files;
pub mod flow;
pub mod follower;
pub mod hardening;
pub mod host;
pub mod logs;
pub mod losses;
pub mod manual;
pub mod memory;
pub mod origin;
pub mod otlp;
pub mod peer;
pub mod run;
pub mod series;
pub mod session;
pub mod signals;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod task;
pub mod top;
pub mod view;

pub use flowcar_screen::histogram;
