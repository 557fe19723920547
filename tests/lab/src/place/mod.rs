//! Cgroups and network namespaces that clean up after themselves.
//!
//! A [`TestPod`] is what a pod is to flowcar: a cgroup and a network namespace. Processes started in it
//! are in both before their first instruction; when the value is dropped, also by a panic, they are
//! killed and the cgroup is removed.
//!
//! What survives when the owner itself is killed, and what becomes of it:
//! - network namespaces (and the devices in them) are held by a file descriptor and have no name in the
//!   file system, so the kernel takes them away with the last process that uses them;
//! - cgroups carry their owner (process id, start time, pid namespace) in their name, and the first
//!   fixture made by a later run kills and removes those whose owner is dead.

mod bpf;
mod caps;
mod cgroup;
mod connect_hook;
mod counters;
mod cpu;
mod detach;
mod error;
mod filter;
mod memory;
mod need;
mod neighbour;
mod netns;
mod network;
mod owner;
mod packet_hook;
mod pod;

pub use ::caps::Capability;
pub use bpf::{maps_ask_for_a_right, maps_count_against};
pub use caps::{OnlyCaps, as_nobody, with_only_caps};
pub use cgroup::{Cgroup, cgroup2_mount};
pub use connect_hook::{AtConnect, ConnectHook};
pub use counters::Counters;
pub use cpu::CpuQuota;
pub use detach::attached_programs;
pub use error::Error;
pub use filter::Filtered;
pub use memory::MemoryCgroup;
pub use need::{
    has_own_machine, kernel_release, lacks, on_path, require_capability, require_cgroup2,
    require_file, require_program, require_root, require_tun,
};
pub use neighbour::{Callbacks, ExclusivePacketFilter, Neighbour, Sharing};
pub use netns::Netns;
pub(crate) use network::{DeviceAddresses, default_route, set_up_device};
pub use packet_hook::PacketHook;
pub use pod::TestPod;
