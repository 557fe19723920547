//! What somebody else in the pod can try against a running flowcar, or what breaks around it: nothing of it makes flowcar lie
//! unnoticed, and nothing of it makes flowcar stop.

mod cgroup_of_others;
mod confined;
mod detached;
mod forged_netlink;
mod probe;
mod rights_left;
mod standard_error;
mod state_file;
