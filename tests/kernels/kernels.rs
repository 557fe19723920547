//! The tests that ask something of the kernel, as one binary that can be carried to another kernel (`make test-kernels`).
//! They are those of `tests/tests`, and those that need more than a developer's kernel may have.

#[path = "../tests/kernel_attacks/main.rs"]
mod kernel_attacks;
#[path = "../tests/kernel_attempts/main.rs"]
mod kernel_attempts;
#[path = "../tests/kernel_bytes.rs"]
mod kernel_bytes;
#[path = "../tests/kernel_cgroup_anew.rs"]
mod kernel_cgroup_anew;
#[path = "../tests/kernel_connect/main.rs"]
mod kernel_connect;
#[path = "../tests/kernel_container_stats.rs"]
mod kernel_container_stats;
#[path = "../tests/kernel_containers.rs"]
mod kernel_containers;
#[path = "../tests/kernel_diag/main.rs"]
mod kernel_diag;
#[path = "../tests/kernel_ends/main.rs"]
mod kernel_ends;
#[path = "../tests/kernel_exchange.rs"]
mod kernel_exchange;
#[path = "../tests/kernel_failures.rs"]
mod kernel_failures;
#[path = "../tests/kernel_faults/main.rs"]
mod kernel_faults;
#[path = "../tests/kernel_loss.rs"]
mod kernel_loss;
#[path = "../tests/kernel_names/main.rs"]
mod kernel_names;
#[path = "../tests/kernel_other_programs.rs"]
mod kernel_other_programs;
#[path = "../tests/kernel_pod.rs"]
mod kernel_pod;
#[path = "../tests/kernel_processes.rs"]
mod kernel_processes;
#[path = "../tests/kernel_refusals.rs"]
mod kernel_refusals;
#[path = "../tests/kernel_restart.rs"]
mod kernel_restart;
#[path = "../tests/kernel_rights.rs"]
mod kernel_rights;
#[path = "../tests/kernel_round_trips.rs"]
mod kernel_round_trips;
#[path = "../tests/kernel_run_diag.rs"]
mod kernel_run_diag;
#[path = "../tests/kernel_scope.rs"]
mod kernel_scope;
#[path = "../tests/kernel_variants.rs"]
mod kernel_variants;
mod layered;
mod without_bpf;
