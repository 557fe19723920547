//! What containers use and wait for, and why a socket has none.

use super::{Value, value};
use crate::{
    origin::Unresolved,
    snapshot::{PressureResource, Stall},
};

pub(super) const CPU_MODES: [Value; 2] = [
    value("user", "In the container's own code.", ""),
    value("system", "In the kernel, for the container.", ""),
];

pub(super) const DISK_IO_DIRECTIONS: [Value; 2] = [
    value("read", "From a block device.", ""),
    value("write", "To a block device.", ""),
];

pub(super) const FAULT_TYPES: [Value; 2] = [
    value("minor", "The page was in memory, or is new.", ""),
    value("major", "The page was read from a disk.", ""),
];

pub(super) const fn pressure_resource(of: PressureResource) -> Value {
    let (meaning, remedy) = match of {
        PressureResource::Cpu => (
            "Tasks were ready to run, and had no CPU; those that a CPU limit throttled, too.",
            "Raise the container's CPU limit or request, or find what else uses the node's CPUs.",
        ),
        PressureResource::Memory => (
            "Tasks waited for memory to be taken back, or for pages that had been.",
            "Raise the container's memory limit, or find what else uses the node's memory.",
        ),
        PressureResource::Io => (
            "Tasks waited for I/O.",
            "Check the devices of the container's volumes, and what else uses them.",
        ),
    };
    value(of.name(), meaning, remedy)
}

pub(super) const fn stall(stall: Stall) -> Value {
    let meaning = match stall {
        Stall::Some => "At least one task waited.",
        Stall::Full => "All tasks that were not idle waited at the same time. Part of `some`.",
    };
    value(stall.name(), meaning, "")
}

pub(super) fn unresolved(reason: Unresolved) -> Value {
    let name = reason.name();
    match reason {
        Unresolved::NoCgroup => value(
            name,
            "Nothing shows the cgroup of the socket: the call of `connect()` or `listen()` was not seen, its record was lost, or containers that share the port took the connection.",
            "",
        ),
        Unresolved::NotInTree => value(
            name,
            "The cgroup's directory was removed before flowcar read it, or is not below the followed one.",
            "",
        ),
        Unresolved::NoTree => value(
            name,
            "The node's cgroup tree is not mounted in the pod, or the pod's cgroup is not found in it.",
            "Mount the tree (the injector does so with the eBPF source), or set FLOWCAR_CONTAINER=off.",
        ),
    }
}
