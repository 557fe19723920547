//! File descriptors: as many as the kernel gives, and connections within them.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one, and logs the limit where that fails. Container runtimes
/// leave the soft limit at 1,024 for programs that use `select`.
pub(crate) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the soft limit of open files could not be raised to the hard one");
    }
}

/// How many connections a listener may have that would like this many: at most half of all descriptors, as
/// connections that have just closed still have theirs.
pub(crate) fn share_of(connections: usize) -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let half = usize::try_from(soft / 2).unwrap_or(usize::MAX);
    connections.min(half)
}
