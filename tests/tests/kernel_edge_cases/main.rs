//! Unusual connections, each against its applications' counts and the wire.

mod fins;
mod hand_over;
mod lasting;
mod link_local;
mod mptcp;
mod reuse;
mod reuseport;
mod sockmap;
mod syns;
mod wrap;

use flowcar_tests::place::{require_cgroup2, require_root, require_tun};

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

fn can_link() -> bool {
    can_run() && require_tun()
}
