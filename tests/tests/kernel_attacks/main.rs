//! Attacks of other processes in the pod on a running flowcar, and failures around it: none makes flowcar report wrong values
//! without a count, and none stops it. Each test is in the table of threats of docs/security/process.md.

mod cgroup_of_others;
mod confined;
mod control;
mod descriptors;
mod detached;
mod forged_netlink;
mod probe;
mod rights_left;
mod standard_error;
mod state_file;
