//! The two properties in which injected sidecars differ.

/// The form of the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// With the two capabilities and the host's cgroup tree that the eBPF source needs.
    pub ebpf: bool,
    /// As an init container that keeps running.
    pub native: bool,
}
