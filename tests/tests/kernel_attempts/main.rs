//! How attempts and connections end, by a table of all that can end them, in every mode.

mod at_once;
mod pairs;
mod resets;
mod rows;
mod stale;
mod ways;

use flowcar_tests::place::{TestPod, require_cgroup2, require_program, require_root};

/// The pod's own address: one that no other network namespace has.
const OWN4: &str = "10.99.13.1";
const OWN6: &str = "fd99:13::1";

fn can_run() -> bool {
    require_root()
        && require_cgroup2()
        && require_program("nft")
        && require_program("ip")
        && require_program("ss")
}

/// A pod with addresses of its own on its loopback device.
fn pod(name: &str) -> TestPod {
    let pod = TestPod::new(name).unwrap();
    for address in [format!("{OWN4}/32"), format!("{OWN6}/128")] {
        let mut ip = pod.netns().command("ip").unwrap();
        let status = ip.args(["address", "add", &address, "dev", "lo"]).status();
        assert!(status.unwrap().success());
    }
    pod
}

/// From now on SYNs to the one port get no answer, and those to the other one an ICMP error.
fn drop_and_prohibit(pod: &TestPod, dropped: u16, prohibited: u16) {
    filter(pod, "input", dropped, "drop");
    let verdict = "reject with icmp type admin-prohibited";
    filter(pod, "input", prohibited, verdict);
}

/// From now on incoming packets to this port get this verdict.
fn filter(pod: &TestPod, hook: &str, port: u16, verdict: &str) {
    let rules = format!(
        "table inet port{port} {{ chain {hook} {{ type filter hook {hook} priority 0; tcp dport {port} {verdict}; }}; }}"
    );
    let nft = pod.netns().command("nft").unwrap().arg(rules).status();
    assert!(nft.unwrap().success());
}
