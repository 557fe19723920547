//! The real programs that tests run against: pins, builds, starts and questions.
//!
//! Each is built once by `tests/peers/build` from the Go module that pins it, and each test starts its own,
//! on ports and in a folder of its own. What a peer has decoded of flowcar's bytes is asked from the peer
//! itself, so that no code of flowcar stands between a test and its verdict.
//!
//! ```no_run
//! use flowcar_tests::peers::{Collector, Peer};
//! use std::time::Duration;
//!
//! let collector = Collector::start();
//! // ... export to collector.grpc_endpoint() ...
//! let name = collector.wait_for("a span", Duration::from_secs(10), |seen| {
//!     seen.spans().first().map(|span| span["name"].clone())
//! });
//! collector.kill();
//! collector.restart(); // on the same ports
//! ```
//!
//! Every function here panics when the peer does not do its part, with the end of the peer's log in the message:
//! a peer that fails is a failed test.

mod apiserver;
mod collector;
mod etcd;
mod http;
mod jaeger;
mod net;
mod pki;
mod process;
mod prometheus;
mod sink;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

pub use apiserver::{Api, ApiServer, ApiServerOptions, PatchKind};
pub use collector::{Collector, CollectorOptions, Tls};
pub use etcd::Etcd;
pub use http::{Client, Reply};
pub use jaeger::Jaeger;
pub use net::{Net, Port};
pub use pki::{Authority, Pair};
pub use process::{Peer, Process, Program};
pub use prometheus::{Prometheus, PrometheusOptions};
pub use sink::{Received, attributes};

/// How long a peer may take to answer after its start. Two seconds are usual; the rest is for a busy machine.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// How often a condition is checked again.
const POLL: Duration = Duration::from_millis(20);

/// Where the peer's executable is.
///
/// # Panics
/// When it is not built yet, with the command that builds it.
pub fn binary(name: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/build");
    let output = Command::new(&script)
        .args(["--path", name])
        .output()
        .unwrap_or_else(|error| panic!("{} does not run: {error}", script.display()));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Asks `probe` until it has an answer.
///
/// # Panics
/// When `limit` has passed without one; `what` names what was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "no {what} within {limit:?}");
        std::thread::sleep(POLL);
    }
}
