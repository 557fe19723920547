//! The clocks, which are read here only. Deadlines are by tokio's clock, which tests can make virtual.

use std::time::{Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;

/// The monotonic clock, for how long something takes.
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The wall clock, for the dates of certificates.
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub(crate) fn wall_time() -> SystemTime {
    SystemTime::now()
}

/// The wall clock, for the dates of the API server's objects.
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub(crate) fn timestamp() -> Timestamp {
    Timestamp::now()
}
